"""The server over real sockets, with a real tiny model behind it."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import torch
import websockets
from websockets.asyncio.client import ClientConnection

from nanochat.common.errors import UserError
from nanochat.engine import Engine
from nanochat.model import GPT
from nanochat.serve.server import MAX_FRAME_BYTES, listen
from nanochat.tokenizer import Tokenizer

TIMEOUT_S = 20.0


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await main()

    asyncio.run(limited())


@asynccontextmanager
async def _open(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A socket after its hello."""
    async with websockets.connect(url.replace("http", "ws") + "ws", proxy=None, **options) as ws:
        assert (await _read(ws))["type"] == "hello"
        yield ws


async def _read(ws: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await ws.recv())
    return message


def _chat(request_id: str = "a", text: str = "hi", **sampling: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps(
        {"type": "chat", "id": request_id, "messages": messages, "sampling": sampling}
    )


async def _answer(ws: ClientConnection, request_id: str) -> tuple[str, dict[str, Any]]:
    """Text and last message of one request; nobody else's may come in between."""
    text, seq = "", 0
    while True:
        message = await _read(ws)
        assert (message["id"], message["seq"]) == (request_id, seq)
        seq += 1
        if message["type"] in ("done", "error"):
            return text, message
        text += message.get("text", "")


LONG = {"max_tokens": 300, "seed": 1}


def test_an_answer(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            await ws.send(_chat(max_tokens=20, seed=5))
            text, done = await _answer(ws, "a")
            prompt = tiny_engine.tokenizer.render_prompt(
                {"messages": [{"role": "user", "content": "hi"}]}
            )
            assert (done["reason"], done["seed"]) == ("length", 5)
            assert done["usage"]["prompt_tokens"] == len(prompt)
            assert done["usage"]["completion_tokens"] == 20
            assert text
            await ws.send(_chat(max_tokens=20, seed=5))  # the id is free again
            assert (await _answer(ws, "a"))[0] == text

    _run(main)


def test_numbers_without_end_are_as_good_as_the_largest(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            answers = []
            for most in (320, 10**100):
                await ws.send(_chat(top_k=most, max_tokens=most, seed=1))
                text, done = await _answer(ws, "a")
                answers.append((text, done["reason"]))
            assert answers[0] == answers[1]

    _run(main)


def test_many_at_once_say_what_each_says_alone(tiny_engine: Engine) -> None:
    async def ask(url: str, number: int) -> str:
        async with _open(url) as ws:
            await ws.send(_chat("x", f"question {number}", max_tokens=24, seed=number))
            return (await _answer(ws, "x"))[0]

    async def main() -> None:
        async with listen(tiny_engine, port=0) as url:
            alone = [await ask(url, number) for number in range(8)]
            together = await asyncio.gather(*(ask(url, number) for number in range(8)))
            assert together == alone
            async with _open(url) as ws:  # and several on one socket, told apart by id
                texts = dict.fromkeys("0123", "")
                for name in texts:
                    await ws.send(_chat(name, f"question {name}", max_tokens=24, seed=int(name)))
                left = len(texts)
                while left:
                    message = await _read(ws)
                    texts[message["id"]] += message.get("text", "")
                    left -= message["type"] == "done"
                assert list(texts.values()) == alone[:4]

    _run(main)


def test_start_and_done_say_what_was_cached(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            for is_again in (False, True):
                await ws.send(_chat("a", "the same question", max_tokens=2))
                start = await _read(ws)
                assert start["type"] == "start"
                while (done := await _read(ws))["type"] != "done":
                    pass
                # Of a prompt that was seen, the last token alone has to be computed.
                num_cached = start["prompt_tokens"] - 1 if is_again else 0
                assert start["cached_tokens"] == num_cached
                assert done["usage"]["cached_tokens"] == num_cached

    _run(main)


@pytest.mark.parametrize("when", ["at once", "when it has begun"])
def test_stop(unhurried_engine: Engine, when: str) -> None:
    async def main() -> None:
        async with listen(unhurried_engine, port=0) as url, _open(url) as ws:
            await ws.send(_chat("z", max_tokens=1))
            await _answer(ws, "z")
            await ws.send(_chat(**LONG))
            start = await _read(ws) if when == "when it has begun" else None
            await ws.send('{"type": "stop", "id": "a"}')
            while (message := await _read(ws))["type"] != "done":
                start = start or message
            assert start is not None
            assert start["type"] == "start"
            assert message["reason"] == "cancelled"
            assert message["usage"]["completion_tokens"] < 300
            assert message["usage"]["cached_tokens"] == start["cached_tokens"]
            if when == "when it has begun":
                assert start["cached_tokens"] == start["prompt_tokens"] - 1

    _run(main)


def test_a_client_that_vanishes_is_cancelled(unhurried_engine: Engine) -> None:
    async def main() -> None:
        async with listen(unhurried_engine, port=0) as url:
            async with _open(url) as ws:
                for name in "abcd":
                    await ws.send(_chat(name, **LONG))
                await _read(ws)
                ws.transport.abort()  # a TCP reset, no goodbye
            async with _open(url) as ws:  # all four slots were taken; this one gets its turn
                await ws.send(_chat(max_tokens=5))
                assert (await _answer(ws, "a"))[1]["reason"] == "length"
            while unhurried_engine.num_running:
                await asyncio.sleep(0)
            assert unhurried_engine.statistics()["drawn_tokens"] < 4 * LONG["max_tokens"]

    _run(main)


def test_a_long_conversation_goes_on_without_its_oldest_turns(tiny_engine: Engine) -> None:
    said = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "y" * 60}]
    messages = [*said * 4, {"role": "user", "content": "hi"}]
    sampling = {"max_tokens": 3, "temperature": 0}

    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            for sent in (messages, messages[4:]):
                chat = {"type": "chat", "id": "a", "messages": sent, "sampling": sampling}
                await ws.send(json.dumps(chat))
                start = await _read(ws)
                assert start["dropped_messages"] == len(sent) - len(messages[4:])
                while (await _read(ws))["type"] != "done":
                    pass

    _run(main)


def test_bad_frames_get_an_error_and_the_socket_lives_on(tiny_engine: Engine) -> None:
    frames: list[tuple[str | bytes, str]] = [
        ("nonsense", "bad_request"),
        (b"\x00\xff", "bad_request"),
        ('{"type": "dance", "id": "a"}', "bad_request"),
        ('{"type": "chat", "id": "a", "messages": []}', "bad_request"),
        (_chat(temperature=-1), "bad_request"),
        (_chat(text="x" * 400), "too_long"),
        (_chat(text="x" * 300_000), "too_long"),
        ("[" * 100_000, "bad_request"),
    ]

    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            for frame, code in frames:
                await ws.send(frame)
                message = await _read(ws)
                assert (message["type"], message["code"]) == ("error", code)
                if frame == frames[5][0]:
                    assert "has 404 tokens and the context 320" in message["message"]
            await ws.send('{"type": "stop", "id": "nobody"}')
            await ws.send(_chat(max_tokens=3))
            assert (await _answer(ws, "a"))[1]["type"] == "done"
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await ws.send("x" * (MAX_FRAME_BYTES + 1))
                await ws.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009

    _run(main)


def test_a_full_queue_says_busy(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0, max_queued=0) as url, _open(url) as ws:
            await ws.send(_chat())
            _, error = await _answer(ws, "a")
            assert error["code"] == "busy"

    _run(main)


def test_a_broken_engine_says_so(
    tiny_model: GPT, byte_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")

    async def main(engine: Engine) -> None:
        async with listen(engine, port=0) as url, _open(url) as ws:
            assert (await _get(url, "/health"))[0] == 200
            for message in ("the engine failed; the server's log", "stopped by an earlier error"):
                await ws.send(_chat())
                _, error = await _answer(ws, "a")
                assert error["code"] == "internal"
                assert message in error["message"]
            status, body = await _get(url, "/health")
            assert (status, json.loads(body)["status"]) == (503, "failed")

    with Engine(model, byte_tokenizer) as engine:
        _run(lambda: main(engine))
    assert "logits must be numbers, got NaN for token 5" in caplog.text


def test_closing_the_server_closes_its_sockets(unhurried_engine: Engine) -> None:
    async def main() -> None:
        async with listen(unhurried_engine, port=0) as url:
            ws = await websockets.connect(url.replace("http", "ws") + "ws", proxy=None)
            await ws.send(_chat(**LONG))
        with pytest.raises(websockets.ConnectionClosedOK):
            while True:
                await ws.recv()
        assert ws.close_code == 1001
        while unhurried_engine.num_running:
            await asyncio.sleep(0)
        assert unhurried_engine.statistics()["drawn_tokens"] < LONG["max_tokens"]

    _run(main)


def test_tokens(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0, token="sesame") as url:
            async with _open(url) as ws:
                await ws.send(_chat())
                assert (await _answer(ws, "a"))[1]["code"] == "unauthorized"
            headers = {"Authorization": "Bearer sesame"}
            async with _open(url, additional_headers=headers) as ws:
                await ws.send(_chat(max_tokens=2))
                assert (await _answer(ws, "a"))[1]["type"] == "done"

    _run(main)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(None, None), (["other"], None), (["other", "nanochat.v1"], "nanochat.v1")],
)
def test_subprotocol(tiny_engine: Engine, offered: Any, chosen: str | None) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url, subprotocols=offered) as ws:
            assert ws.subprotocol == chosen

    _run(main)


def test_other_sites_are_refused(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url:
            async with _open(url, origin=url.rstrip("/")):
                pass
            for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with _open(url, origin=origin):
                        pass
                assert refused.value.response.status_code == 403
            assert (await _get(url, "/", host="evil.example"))[0] == 403
            assert (await _get(url, "/", host="localhost:1"))[0] == 200
            assert (await _get(url, "/", host="[::1]"))[0] == 200
            assert (await _get(url, "/", host="["))[0] == 403

    _run(main)


async def _get(url: str, path: str, *, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and body of a plain request."""
    port = int(url.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    response = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = response.partition("\r\n\r\n")
    return int(head.split()[1]), body


def test_pages(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0, name="tiny") as url:
            status, page = await _get(url, "/")
            assert status == 200
            assert "<title>nanochat</title>" in page
            assert "innerHTML" not in page
            assert "http://" not in page.replace("http://www.w3.org/", "")
            assert "https://" not in page
            assert (await _get(url, "/nothing"))[0] == 404
            assert (await _get(url, "/ws"))[0] == 426
            status, body = await _get(url, "/health")
            assert (status, json.loads(body)["model"]["name"]) == (200, "tiny")

    _run(main)


def test_metrics(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url, _open(url) as ws:
            for _ in range(2):
                await ws.send(_chat(max_tokens=7, temperature=0, top_k=None))
                _, done = await _answer(ws, "a")
            await ws.send("nonsense")
            await ws.recv()
            status, text = await _get(url, "/metrics")
            counted = tiny_engine.statistics()
        assert status == 200
        values = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        assert values["nanochat_connections"] == 1
        assert values['nanochat_requests_total{reason="length"}'] == 2
        assert values['nanochat_errors_total{code="bad_request"}'] == 1
        assert values["nanochat_completion_tokens_total"] == 14
        assert values["nanochat_ttft_seconds_count"] == 2
        assert values['nanochat_ttft_seconds_bucket{le="+Inf"}'] == 2
        num_prompt = done["usage"]["prompt_tokens"]
        assert values["nanochat_engine_cached_tokens_total"] == num_prompt - 1
        assert values["nanochat_engine_drawn_tokens_total"] == 14
        for name in ("computed_tokens", "drafted_tokens", "accepted_tokens", "steps",
                     "step_seconds", "preemptions"):  # fmt: skip
            assert values[f"nanochat_engine_{name}_total"] == counted[name]
        assert values["nanochat_engine_computed_tokens_total"] > num_prompt
        pages = {state: values[f'nanochat_engine_pages{{state="{state}"}}']
                 for state in ("free", "idle", "held")}  # fmt: skip
        assert sum(pages.values()) == counted["pages"] > 0
        assert (pages["held"], pages["idle"] > 0) == (0, True)
        buckets = [v for k, v in values.items() if k.startswith("nanochat_ttft_seconds_bucket")]
        assert buckets == sorted(buckets)

    _run(main)


def test_metrics_of_a_core_that_counts_nothing(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    async def main(engine: Engine) -> None:
        async with listen(engine, port=0) as url:
            status, text = await _get(url, "/metrics")
        assert status == 200
        assert "nanochat_requests_running 0" in text
        assert "nanochat_engine_" not in text

    with Engine(tiny_model, byte_tokenizer, backend="torch") as engine:
        _run(lambda: main(engine))


def test_a_port_in_use_is_one_line(tiny_engine: Engine) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use; stop"):
                async with listen(tiny_engine, port=port):
                    pass

    _run(main)


def test_the_network_needs_a_token(tiny_engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(UserError, match="add --token"):
            async with listen(tiny_engine, host="0.0.0.0", port=0):
                pass

    _run(main)


def test_strangers_that_speak_no_http(
    tiny_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url:
            port = int(url.rstrip("/").rpartition(":")[2])
            for noise in (b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nx" + b"y" * 20_000):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(noise)
                writer.write_eof()
                await reader.read()
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            assert (await _get(url, "/health"))[0] == 200

    _run(main)
    assert "Traceback" not in caplog.text
