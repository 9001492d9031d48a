"""The sameness contract, and that every request ends, whatever happens to it."""

from __future__ import annotations

import asyncio
import random
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat.engine import Completion, Engine, Piece, Sampling
from nanochat.engine.engine import PREFILL_CHUNK
from nanochat.engine.request import Event
from nanochat.engine.sampling import sample
from nanochat.model import GPT, GPTConfig, KVCache
from nanochat.tokenizer import Tokenizer


def _prompts(number: int, longest: int = 60) -> list[list[int]]:
    """Random bytes of very different lengths; the first spans two chunks of prefill."""
    rng = random.Random(number)
    lengths = [PREFILL_CHUNK + 9] + [rng.randrange(1, longest) for _ in range(number - 1)]
    return [[rng.randrange(256) for _ in range(length)] for length in lengths]


def _samplings(number: int) -> list[Sampling]:
    kinds: list[dict[str, float | int]] = [
        {"temperature": 0.0}, {"temperature": 1.0}, {"top_k": 20}, {"top_p": 0.9},
    ]  # fmt: skip
    return [Sampling(max_tokens=16, seed=i, **kinds[i % 4]) for i in range(number)]  # type: ignore[arg-type]


class Chain(GPT):
    """A GPT whose next token is a function of the last one: for turns that follow a script."""

    following: dict[int, int]
    calls = 0
    fail_at: int | None = None

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError("the device is gone")
        return super().hidden(ids, cache=cache)

    def forward(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        self.hidden(ids, cache=cache)
        logits = torch.full((*ids.shape, self.config.vocab_size), -10.0)
        for row, sequence in enumerate(ids.tolist()):
            for column, token in enumerate(sequence):
                logits[row, column, self.following.get(token, token)] = 10.0
        return logits


def _chain(model: GPT, *scripts: list[int]) -> Chain:
    chain = Chain(model.config)
    chain.load_state_dict(model.state_dict())
    chain.following = {a: b for script in scripts for a, b in pairwise(script)}
    return chain


GREEDY = Sampling(temperature=0.0, max_tokens=64)


def test_greedy_equals_the_model_without_a_cache(tiny_model: GPT, tiny_engine: Engine) -> None:
    prompts = _prompts(3)
    completions = tiny_engine.generate(prompts, Sampling(temperature=0.0, max_tokens=12))
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = list(prompt)
        for token in completion.ids:
            with torch.no_grad():
                logits = tiny_model(torch.tensor([ids]))[0, -1]
            assert logits[token] > logits.max() - 1e-4  # rounding may differ between the two
            ids.append(token)


@pytest.mark.parametrize("company", [2, 3, 7])
def test_tokens_do_not_depend_on_company_or_order(tiny_engine: Engine, company: int) -> None:
    prompts, samplings = _prompts(company), _samplings(company)
    alone = [
        tiny_engine.generate([prompt], sampling)[0].ids
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    rng = random.Random(company)
    for _ in range(3):
        order = rng.sample(range(company), company)
        together = tiny_engine.generate([prompts[i] for i in order], [samplings[i] for i in order])
        assert [completion.ids for completion in together] == [alone[i] for i in order]


def test_logits_are_equal_in_every_bit_whatever_the_slot(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide enough for the library to split its work; the tiny model is below that."""
    model = GPT(GPTConfig.from_depth(4, vocab_size=byte_tokenizer.vocab_size, seq_len=128))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    seen: dict[tuple[int, int], bytes] = {}

    def spy(logits: np.ndarray, sampling: Sampling, *, seed: int, position: int) -> int:
        bits = logits.tobytes()
        assert seen.setdefault((seed, position), bits) == bits
        return sample(logits, sampling, seed=seed, position=position)

    monkeypatch.setattr("nanochat.engine.engine.sample", spy)
    prompts = [prompt[:40] for prompt in _prompts(7)]
    samplings = [Sampling(max_tokens=6, seed=i) for i in range(7)]
    with Engine(model, byte_tokenizer, slots=7) as engine:
        for order in (range(7), range(6, -1, -1), (3, 0, 6), (5,), (2,)):
            engine.generate([prompts[i] for i in order], [samplings[i] for i in order])
    assert len(seen) == 7 * 6


def test_a_common_batch_gives_the_same_answers(
    tiny_model: GPT, tiny_engine: Engine, byte_tokenizer: Tokenizer
) -> None:
    """Up to rounding, which no token of these hangs on; prefill goes on beside it."""
    prompts, samplings = _prompts(7), _samplings(7)
    exact = tiny_engine.generate(prompts, samplings)
    with Engine(tiny_model, byte_tokenizer, slots=3, is_exact=False) as engine:
        together = engine.generate(prompts, samplings)
    assert [c.ids for c in together] == [c.ids for c in exact]


def test_tokens_do_not_depend_on_arrivals_and_departures(tiny_engine: Engine) -> None:
    prompts, samplings = _prompts(6), _samplings(6)
    alone = [
        tiny_engine.generate([prompt], sampling)[0].ids
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]

    async def ask(i: int, start: asyncio.Event, started: asyncio.Event) -> list[int]:
        await start.wait()
        stream = tiny_engine.stream(prompts[i], samplings[i])
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


def test_the_stream_tells_what_generate_tells(tiny_engine: Engine) -> None:
    prompt, sampling = _prompts(2)[1], Sampling(max_tokens=40, seed=3)
    expected = tiny_engine.generate([prompt], sampling)[0]

    async def main() -> tuple[str, Completion]:
        stream = tiny_engine.stream(prompt, sampling)
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


def test_a_fresh_seed_is_reported_and_repeats_the_answer(tiny_engine: Engine) -> None:
    prompt = _prompts(2)[1]
    first, second = tiny_engine.generate([prompt, prompt], Sampling(max_tokens=30))
    assert first.seed != second.seed
    assert first.ids != second.ids
    again = tiny_engine.generate([prompt], Sampling(max_tokens=30, seed=first.seed))[0]
    assert again.ids == first.ids


def test_the_context_ends_an_answer(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    with Engine(_chain(tiny_model), byte_tokenizer, slots=2) as engine:
        context = engine.context
        full, small = engine.generate(
            [[5] * (context - 3), [6]], Sampling(temperature=0.0, max_tokens=2 * context)
        )
    assert (full.reason, full.ids) == ("length", [5] * 3)
    assert (small.reason, len(small.ids)) == ("length", context - 1)


def test_a_tool_call_runs_while_others_go_on(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    tok = byte_tokenizer
    script = [
        tok.assistant_start, tok.python_start, *b"6*7", tok.python_end,
    ]  # fmt: skip
    chain = _chain(tiny_model, script, [tok.output_end, *b".", tok.assistant_end], [*b"a", *b"a"])
    with Engine(chain, tok, slots=2) as engine:
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


def test_cancel_ends_a_request_within_a_step(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    submitted, ended = threading.Event(), threading.Event()
    got: list[Event] = []

    def deliver(event: Event) -> None:
        submitted.wait()
        got.append(event)
        if isinstance(event, Piece):
            request.cancel()  # on the engine thread, so the count below is exact
        else:
            ended.set()

    with Engine(_chain(tiny_model), byte_tokenizer, slots=1) as engine:
        request = engine.submit([*b"a"], Sampling(temperature=0.0, max_tokens=300), deliver)
        submitted.set()
        assert ended.wait(10)
        assert engine.num_running == 0
    completion = got[-1]
    assert isinstance(completion, Completion)
    assert completion.reason == "cancelled"
    assert len(completion.ids) <= 2  # prefill gives one, the decode of the same step another


def test_a_cancelled_request_in_the_queue_never_runs(
    tiny_model: GPT, byte_tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        with Engine(_chain(tiny_model), byte_tokenizer, slots=1) as engine:
            running = engine.stream([*b"a"], GREEDY)
            waiting = engine.stream([*b"b"], GREEDY)
            waiting.cancel()
            assert [piece async for piece in waiting] == []
            assert waiting.completion is not None
            assert waiting.completion.reason == "cancelled"
            assert "".join([piece.text async for piece in running]) == "a" * 64

    asyncio.run(main())


def test_a_consumer_that_goes_away_frees_its_slot(
    tiny_model: GPT, byte_tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        with Engine(_chain(tiny_model), byte_tokenizer, slots=1) as engine:
            stream = engine.stream([*b"a"], Sampling(temperature=0.0, max_tokens=300))
            turn = stream._request.turn
            async for _ in stream:
                break
            del stream
            other = engine.stream([*b"b"], GREEDY)
            assert "".join([piece.text async for piece in other]) == "b" * 64
            assert turn.reason == "cancelled"

    asyncio.run(main())


def test_close_cancels_and_may_be_repeated(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    async def main() -> None:
        engine = Engine(_chain(tiny_model), byte_tokenizer, slots=1)
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
    Engine(tiny_model, byte_tokenizer).close()  # never used


@pytest.mark.parametrize("fail_at", [1, 2, 5])
def test_a_crash_fails_everyone_and_nobody_waits(
    tiny_model: GPT, byte_tokenizer: Tokenizer, fail_at: int
) -> None:
    chain = _chain(tiny_model)
    chain.fail_at = fail_at
    with Engine(chain, byte_tokenizer, slots=2) as engine:
        with pytest.raises((OSError, RuntimeError)) as caught:
            engine.generate([[*b"a"], [*b"b"], [*b"c"]], GREEDY)
        # It may break before the last prompt is submitted, which is then refused because of it.
        assert "the device is gone" in f"{caught.value} {caught.value.__cause__}"
        assert isinstance(engine.failure, OSError)
        assert (engine.num_running, engine.num_queued) == (0, 0)
        with pytest.raises(RuntimeError, match="stopped by an earlier error"):
            engine.generate([[1]], GREEDY)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "at least one token"),
        ([1] * 320, "shorter than the context of 320 tokens, got 320"),
        ([0, 265], "token ids must be 0 to 264, got 0 to 265"),
        ([-1], "token ids must be 0 to 264"),
    ],
)
def test_bad_prompts_are_refused(tiny_engine: Engine, prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_engine.generate([[1], prompt], GREEDY)
    assert tiny_engine.generate([[1]], GREEDY)[0].ids  # and the engine goes on


def test_bad_arguments_are_refused(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        Engine(tiny_model, byte_tokenizer, slots=0)
    with pytest.raises(ValueError, match="dtype must be one of fp32, bf16, fp16, got 'int4'"):
        Engine.load("anywhere", dtype="int4")
