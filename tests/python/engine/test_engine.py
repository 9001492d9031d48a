"""The sameness contract, and that every request ends, whatever happens to it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from nanochat.engine import Completion, Engine, NativeOptions, Piece, Sampling
from nanochat.engine.engine import Backend
from nanochat.engine.request import Event
from nanochat.engine.torch_core import CHUNK
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer


def _prompts(number: int, longest: int = 60) -> list[list[int]]:
    """Random bytes of very different lengths; the first spans two chunks of prefill."""
    rng = random.Random(number)
    lengths = [CHUNK + 9] + [rng.randrange(1, longest) for _ in range(number - 1)]
    return [[rng.randrange(256) for _ in range(length)] for length in lengths]


def _samplings(number: int) -> list[Sampling]:
    kinds: list[dict[str, float | int]] = [
        {"temperature": 0.0}, {"temperature": 1.0}, {"top_k": 20}, {"top_p": 0.9},
    ]  # fmt: skip
    return [Sampling(max_tokens=16, seed=i, **kinds[i % 4]) for i in range(number)]  # type: ignore[arg-type]


Scripted = Callable[..., GPT]


@pytest.fixture
def engine(tiny_model: GPT, byte_tokenizer: Tokenizer, backend: Backend) -> Iterator[Engine]:
    options = NativeOptions(dtype="fp32")
    with Engine(tiny_model, byte_tokenizer, slots=4, backend=backend, options=options) as made:
        yield made


def assert_soon(event: threading.Event) -> None:
    assert event.wait(10)


GREEDY = Sampling(temperature=0.0, max_tokens=64)


def test_greedy_equals_the_model_without_a_cache(tiny_model: GPT, engine: Engine) -> None:
    prompts = _prompts(3)
    completions = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=12))
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = list(prompt)
        for token in completion.ids:
            with torch.no_grad():
                logits = tiny_model(torch.tensor([ids]))[0, -1]
            assert logits[token] > logits.max() - 1e-4  # rounding may differ between the two
            ids.append(token)


@pytest.mark.parametrize("company", [2, 3, 7])
def test_tokens_do_not_depend_on_company_or_order(engine: Engine, company: int) -> None:
    prompts, samplings = _prompts(company), _samplings(company)
    alone = [
        engine.generate([prompt], sampling)[0].ids
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    rng = random.Random(company)
    for _ in range(3):
        order = rng.sample(range(company), company)
        together = engine.generate([prompts[i] for i in order], [samplings[i] for i in order])
        assert [completion.ids for completion in together] == [alone[i] for i in order]


def test_tokens_do_not_depend_on_arrivals_and_departures(engine: Engine) -> None:
    prompts, samplings = _prompts(6), _samplings(6)
    alone = [
        engine.generate([prompt], sampling)[0].ids
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]

    async def ask(i: int, start: asyncio.Event, started: asyncio.Event) -> list[int]:
        await start.wait()
        stream = engine.stream(prompts[i], samplings[i])
        async for _ in stream:
            started.set()
            if i == 2:
                stream.cancel()
        started.set()
        assert stream.completion is not None
        return stream.completion.ids

    async def main() -> list[list[int]]:
        """Each begins when the one before has shown its first piece; the third gives up."""
        events = [asyncio.Event() for _ in range(7)]
        events[0].set()
        return await asyncio.gather(*(ask(i, events[i], events[i + 1]) for i in range(6)))

    together = asyncio.run(main())
    for i in range(6):
        if i != 2:
            assert together[i] == alone[i]
    assert together[2] == alone[2][: len(together[2])]


def test_the_stream_tells_what_generate_tells(engine: Engine) -> None:
    prompt, sampling = _prompts(2)[1], Sampling(max_tokens=40, seed=3)
    expected = engine.generate([prompt], sampling)[0]

    async def main() -> tuple[str, Completion]:
        stream = engine.stream(prompt, sampling)
        text = "".join([piece.text async for piece in stream if piece.kind == "text"])
        assert stream.completion is not None
        assert stream.prompt_tokens == len(prompt)
        return text, stream.completion

    text, completion = asyncio.run(main())
    assert text == completion.text == expected.text
    assert completion.ids == expected.ids
    assert len(completion.ids) == len(completion.mask) == completion.usage.completion_tokens
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.ttft_ms > 0
    assert completion.usage.tokens_per_second > 0


def test_a_fresh_seed_is_reported_and_repeats_the_answer(engine: Engine) -> None:
    prompt = _prompts(2)[1]
    first, second = engine.generate([prompt, prompt], Sampling(max_tokens=30))
    assert first.seed != second.seed
    assert first.ids != second.ids
    again = engine.generate([prompt], Sampling(max_tokens=30, seed=first.seed))[0]
    assert again.ids == first.ids


def test_the_context_ends_an_answer(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    with Engine(scripted(), byte_tokenizer, backend=backend, slots=2) as engine:
        context = engine.context
        full, small = engine.generate(
            [[5] * (context - 3), [6]], Sampling(temperature=0.0, max_tokens=2 * context)
        )
    assert (full.reason, full.ids) == ("length", [5] * 3)
    assert (small.reason, len(small.ids)) == ("length", context - 1)


def test_a_tool_call_runs_while_others_go_on(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    tok = byte_tokenizer
    script = [
        tok.assistant_start, tok.python_start, *b"6*7", tok.python_end,
    ]  # fmt: skip
    model = scripted(script, [tok.output_end, *b".", tok.assistant_end], [*b"a", *b"a"])
    with Engine(model, tok, backend=backend, slots=2) as engine:
        tool, plain = engine.generate([[tok.bos, tok.assistant_start], [*b"a"]], GREEDY)
    assert tool.pieces == [
        Piece("tool_call", "6*7"),
        Piece("tool_output", "42"),
        Piece("text", "."),
    ]
    assert tool.ids == [*script[1:], tok.output_start, *b"42", tok.output_end, *b"."]
    assert tool.mask == [1] * 5 + [0] * 4 + [1]
    assert (tool.text, tool.reason) == (".", "stop")
    assert plain.text == "a" * 64


def test_cancel_ends_a_request_within_a_step(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    submitted, ended = threading.Event(), threading.Event()
    got: list[Event] = []

    def deliver(event: Event) -> None:
        submitted.wait()
        got.append(event)
        if isinstance(event, Piece):
            request.cancel()  # on the engine thread, so the count below is exact
        else:
            ended.set()

    with Engine(scripted(), byte_tokenizer, backend=backend, slots=1) as engine:
        request = engine.submit([*b"a"], Sampling(temperature=0.0, max_tokens=300), deliver)
        submitted.set()
        assert ended.wait(10)
        assert engine.num_running == 0
    completion = got[-1]
    assert isinstance(completion, Completion)
    assert completion.reason == "cancelled"
    assert len(completion.ids) <= 2  # prefill gives one, the decode of the same step another


def test_a_cancelled_request_in_the_queue_never_runs(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        with Engine(scripted(), byte_tokenizer, backend=backend, slots=1) as engine:
            running = engine.stream([*b"a"], GREEDY)
            waiting = engine.stream([*b"b"], GREEDY)
            waiting.cancel()
            assert [piece async for piece in waiting] == []
            assert waiting.completion is not None
            assert waiting.completion.reason == "cancelled"
            assert "".join([piece.text async for piece in running]) == "a" * 64

    asyncio.run(main())


def test_a_consumer_that_goes_away_frees_its_slot(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        with Engine(scripted(), byte_tokenizer, backend=backend, slots=1) as engine:
            gone = threading.Event()  # until then nobody is told anything
            engine.submit([*b"c"], Sampling(max_tokens=1), lambda _: assert_soon(gone))
            stream = engine.stream([*b"a"], Sampling(temperature=0.0, max_tokens=300))
            turn = stream._request.turn
            del stream
            gone.set()
            other = engine.stream([*b"b"], GREEDY)
            assert "".join([piece.text async for piece in other]) == "b" * 64
            assert turn.reason == "cancelled"

    asyncio.run(main())


def test_close_cancels_and_may_be_repeated(
    unhurried_model: GPT, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        engine = Engine(unhurried_model, byte_tokenizer, backend=backend, slots=1)
        streams = [engine.stream([*b"a"], Sampling(max_tokens=300)) for _ in range(3)]
        await anext(streams[0])
        engine.close()
        engine.close()
        for stream in streams:
            async for _ in stream:
                pass
            assert stream.completion is not None
            assert stream.completion.reason == "cancelled"
        with pytest.raises(RuntimeError, match="engine: closed"):
            engine.stream([1], GREEDY)

    asyncio.run(main())
    Engine(unhurried_model, byte_tokenizer, backend=backend).close()  # never used


def test_what_was_cached_is_known_from_the_first_piece_on(unhurried_engine: Engine) -> None:
    async def main() -> None:
        prompt = [*b"a question"]
        unhurried_engine.generate([prompt], Sampling(max_tokens=1))
        stream = unhurried_engine.stream(prompt, Sampling(max_tokens=300))
        await anext(stream)
        assert stream.cached_tokens == len(prompt) - 1
        unhurried_engine.close()  # the core's last word on the request knows nothing of it
        async for _ in stream:
            pass
        assert stream.completion is not None
        assert stream.completion.reason == "cancelled"
        assert stream.completion.usage.cached_tokens == len(prompt) - 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "at least one token"),
        ([1] * 320, "shorter than the context of 320 tokens, got 320"),
        ([0, 265], "token ids must be 0 to 264, got 265"),
        ([-1], "token ids must be 0 to 264, got -1"),
    ],
)
def test_bad_prompts_are_refused(engine: Engine, prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.generate([[1], prompt], GREEDY)
    assert engine.generate([[1]], GREEDY)[0].ids  # and the engine goes on


def test_bad_arguments_are_refused(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        Engine(scripted(), byte_tokenizer, backend=backend, slots=0)
    with pytest.raises(ValueError, match="dtype must be one of fp32, bf16, int8, got 'int4'"):
        Engine.load("anywhere", dtype="int4")


def test_a_listener_that_breaks_fails_everyone_and_nobody_waits(
    scripted: Scripted, backend: Backend, byte_tokenizer: Tokenizer
) -> None:
    def deliver(event: Event) -> None:
        if not isinstance(event, BaseException):
            raise OSError("gone")

    with Engine(scripted(), byte_tokenizer, backend=backend, slots=1) as engine:
        engine.submit([1], GREEDY, deliver)
        with pytest.raises(RuntimeError, match=r"OSError: gone|stopped by an earlier error"):
            engine.generate([[2]] * 3, GREEDY)
        assert isinstance(engine.failure, RuntimeError)
        assert isinstance(engine.failure.__cause__, OSError)
