"""Multiple choice: which choice, a letter or a few words, is the likeliest reply to the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nanochat.engine import Engine
from nanochat.evals.likelihood import TokenRow, scorer
from nanochat.evals.records import TOO_LONG, Record
from nanochat.evals.statistics import min_index
from nanochat.tasks import Example

CHOOSE_AT_ONCE = 64  # questions scored between two reports of progress


def choose(
    engine: Engine, examples: Sequence[Example], report: Callable[[int], None]
) -> list[Record]:
    """For each example what the likeliest choice is worth.

    A choice whose likelihood is no number, by a broken model, leaves the example unanswered.
    """
    tokenizer, score = engine.tokenizer, scorer(engine)
    replies = [dict(TOO_LONG) for _ in examples]
    groups: list[tuple[int, list[TokenRow]]] = []
    for i, example in enumerate(examples):
        prompt = tokenizer.render_prompt(example.prompt)
        rows = [TokenRow(prompt + tokenizer.encode(c), len(prompt)) for c in example.choices]
        # The last token of a reply is only predicted.
        if all(len(row.ids) <= engine.context + 1 for row in rows):
            groups.append((i, rows))
    groups.sort(key=lambda group: -len(group[1][0].ids))  # the first batch decides the memory
    num_done = len(examples) - len(groups)
    for start in range(0, len(groups), CHOOSE_AT_ONCE):
        part = groups[start : start + CHOOSE_AT_ONCE]
        for (i, _), scores in zip(part, score([rows for _, rows in part]), strict=True):
            replies[i] = _decide(examples[i], [choice.nats for choice in scores])
        num_done += len(part)
        report(num_done)
    return replies


def _decide(example: Example, nats: Sequence[float]) -> Record:
    if not all(map(math.isfinite, nats)):
        return {"text": "", "reason": "stop", "verdict": "unanswered"}
    text = example.choices[min_index(nats)]
    return {"text": text, "reason": "stop", "verdict": example.verdict(text)}
