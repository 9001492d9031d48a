"""Generative prompts: the engine answers all of them at once, and threads grade what it has said.

    submit all --> engine decodes     completion --> grader (may run code in a process of its own)
                   as many as fit                --> verdict

Grading never holds the engine up, and its processes run beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from nanochat.common.hardware import num_cores
from nanochat.engine import Completion, Engine, Piece, Sampling
from nanochat.engine.request import Event, Request
from nanochat.evals.records import TOO_LONG, Record
from nanochat.tasks import Example
from nanochat.tasks.base import Verdict


def answer(
    engine: Engine,
    examples: Sequence[Example],
    samplings: Sequence[Sampling],
    *,
    num_samples: int,
    report: Callable[[int], None],
) -> list[list[Record]]:
    """The engine's replies to each example, ``num_samples`` of it, with tools, and their verdicts.

    Raises: what broke the engine, or a grader.
    """
    prompts = [engine.tokenizer.render_prompt(example.prompt) for example in examples]
    replies = [[dict(TOO_LONG) for _ in range(num_samples)] for _ in examples]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.context]
    left = dict.fromkeys(fitting, num_samples)  # samples to come, of examples that are not done
    events: SimpleQueue[tuple[int, int, Event | Future[Verdict]]] = SimpleQueue()

    def teller(i: int, sample: int) -> Callable[[Event | Future[Verdict]], None]:
        return lambda event: None if isinstance(event, Piece) else events.put((i, sample, event))

    graders = ThreadPoolExecutor(num_cores())
    requests: list[Request] = []
    try:
        for i in fitting:
            for sample in range(num_samples):
                tell = teller(i, sample)
                requests.append(engine.submit(prompts[i], samplings[i], tell, sample=sample))
        while left:
            i, sample, event = events.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Completion):
                replies[i][sample] = _reply(event)
                grade = graders.submit(examples[i].verdict, event.text)
                grade.add_done_callback(teller(i, sample))
            elif isinstance(event, Future):
                replies[i][sample]["verdict"] = event.result()
                left[i] -= 1
                if left[i] == 0:
                    del left[i]
                    report(len(examples) - len(left))
    finally:
        for request in requests:
            request.cancel()
        graders.shutdown(cancel_futures=True)
    return replies


def _reply(completion: Completion) -> Record:
    reply: Record = {"text": completion.text, "reason": completion.reason}
    parts = content_parts(completion)
    if any(part["type"] != "text" for part in parts):
        reply["parts"] = parts
    return reply


_PART_OF_PIECE = {"text": "text", "tool_call": "python", "tool_output": "python_output"}


def content_parts(completion: Completion) -> list[dict[str, str]]:
    """The reply as content of an assistant message; neighbouring stretches of text are joined."""
    parts: list[dict[str, str]] = []
    for piece in completion.pieces:
        kind = _PART_OF_PIECE[piece.kind]
        if kind == "text" and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece.text
        else:
            parts.append({"type": kind, "text": piece.text})
    return parts
