"""Multiple choice: which choice, a letter or a few words, is the likeliest reply to the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from nanochat.engine import Engine
from nanochat.evals.records import TOO_LONG, Record
from nanochat.evals.statistics import min_index
from nanochat.model import GPT
from nanochat.tasks import Example

CHOICE_TOKENS = 16_384  # of a forward pass over multiple-choice prompts, padding included


def choose(
    engine: Engine, examples: Sequence[Example], report: Callable[[int], None]
) -> list[Record]:
    """For each example what the likeliest choice is worth.

    A choice of which the model says that its likelihood is no number leaves the example unanswered.
    """
    tokenizer, model = engine.tokenizer, engine.model
    if model is None:
        raise ValueError("tasks: choices are scored by the PyTorch model; make the engine from it")
    prompts = [tokenizer.render_prompt(example.prompt) for example in examples]
    rows = [
        (i, c, prompt, tokenizer.encode(choice))
        for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True))
        for c, choice in enumerate(example.choices)
    ]
    limit = engine.context + 1  # the last token of a reply is only predicted
    too_long = {i for i, _, prompt, reply in rows if len(prompt) + len(reply) > limit}
    rows = sorted((row for row in rows if row[0] not in too_long), key=lambda row: len(row[2]))
    scores = [[0.0] * len(example.choices) for example in examples]
    while rows:
        # Longest first: the first batch decides the memory.
        size = max(1, CHOICE_TOKENS // len(rows[-1][2]))
        batch, rows = rows[-size:], rows[:-size]
        nats = reply_nats(model, [row[2:] for row in batch], pad=tokenizer.bos)
        for (i, c, _prompt, _reply), value in zip(batch, nats.tolist(), strict=True):
            scores[i][c] = value
        report(len(examples) - len({i for i, *_ in rows}))
    return [
        dict(TOO_LONG) if i in too_long else _decide(example, scores[i])
        for i, example in enumerate(examples)
    ]


def _decide(example: Example, nats: Sequence[float]) -> Record:
    if not all(map(math.isfinite, nats)):
        return {"text": "", "reason": "stop", "verdict": "unanswered"}
    text = example.choices[min_index(nats)]
    return {"text": text, "reason": "stop", "verdict": example.verdict(text)}


@torch.no_grad()
def reply_nats(
    model: GPT, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, pad: int
) -> torch.Tensor:
    """-log p of each reply after its prompt, nats, (B,) fp32 on the host; pairs of token ids."""
    width = max(len(prompt) + len(reply) for prompt, reply in pairs) - 1
    ids = torch.full((len(pairs), width), pad)
    targets = torch.full((len(pairs), width), -1)
    for row, target, (prompt, reply) in zip(ids, targets, pairs, strict=True):
        whole = torch.tensor([*prompt, *reply])
        row[: len(whole) - 1] = whole[:-1]  # what is right of a reply is never seen by it
        target[len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    device = next(model.parameters()).device
    return model.nats(ids.to(device), targets.to(device)).sum(dim=1).cpu()
