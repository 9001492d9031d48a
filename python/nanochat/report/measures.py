"""Measures as people read them: what a name is called, where its row stands, how its value reads.

Stages name their measures freely. A name that this module knows gets its place and its spelling in
the field; any other gets a row too, after those, under its own name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nanochat.common.figures import count, percent
from nanochat.common.record import Measure

CHAT_TASKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")
SUMS = ("core", "chat_core", "mean_centred")  # means over the tasks that are listed below them
ABOUT_TRAINING = ("num_", "total_", "peak_", "tokens_", "packing_", "mfu")

_LABELS = {
    "core": "CORE",
    "chat_core": "ChatCORE",
    "mean_centred": "mean of the tasks, centred",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K",
    "humaneval": "HumanEval",
    "spelling_bee": "SpellingBee",
    "num_parameters": "parameters",
    "num_tokens": "training tokens",
    "total_flops": "FLOPs in all",
    "mfu": "MFU",
}


def label(name: str) -> str:
    if name.startswith("pass_at_"):
        return f"pass@{name.removeprefix('pass_at_')}"
    if name not in _LABELS and name.startswith("core_"):
        return label(name.removeprefix("core_"))
    return _LABELS.get(name, name.replace("_", " "))


def sum_of(name: str, measure: Measure) -> str:
    """The mean to which an accuracy belongs; empty if to none."""
    if name.startswith("core_"):
        return "core"
    if name in CHAT_TASKS:
        return "chat_core"
    return "mean_centred" if measure.chance is not None and name not in SUMS else ""


def ordered(
    measures: Iterable[tuple[str, Measure]],
) -> list[tuple[str, Literal["", "part", "sum"]]]:
    """Names and kinds of their rows: text, then each mean and its tasks, then the rest.

    Within a group, the order in which they were measured.
    """
    found = dict(measures)

    def place(name: str) -> tuple[int, int]:
        group = sum_of(name, found[name])
        if name.endswith("_bpb"):
            return 0, 0
        if name in SUMS:
            return 1 + SUMS.index(name), 0
        if group:
            return 1 + SUMS.index(group), 1
        return (9 if name.startswith(ABOUT_TRAINING) else 8), 0

    def kind(name: str) -> Literal["", "part", "sum"]:
        if name in SUMS:
            return "sum"
        return "part" if sum_of(name, found[name]) in found else ""

    return [(name, kind(name)) for name in sorted(found, key=place)]


def show(name: str, measure: Measure) -> str:
    """``measure`` with its unit, which follows from its name, and its interval."""
    value, low, high = measure.value, measure.low, measure.high
    if name.endswith("_bpb"):
        above = f" (floor {100 * (value / measure.bound - 1):+.1f} %)" if measure.bound else ""
        return f"{value:.4f}{above}"
    has_interval = low is not None and high is not None
    if name in ("core", "chat_core"):
        return f"{value:.4f}" + (f" ({low:.4f} to {high:.4f})" if has_interval else "")
    if has_interval:
        assert low is not None and high is not None
        return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"
    if measure.chance is not None or name.startswith("pass_at_"):
        return percent(value)
    if name.endswith(("accuracy", "centred", "mfu", "waste")):
        return percent(value)
    if name.endswith("_gib"):
        return f"{value:.1f} GiB"
    return count(value)


def set_aside(measure: Measure) -> str:
    """What did not go as an example should, by its count; empty if the stage did not count."""
    counts = {
        "malformed": measure.num_malformed,
        "too long": measure.num_too_long,
        "unanswered": measure.num_unanswered,
    }
    counted = [f"{number:,} {what}" for what, number in counts.items() if number]
    if not counted and any(number is not None for number in counts.values()):
        return "none"
    return ", ".join(counted)
