"""Measures as people read them: what a name is called, where its row stands, how its value reads.

Stages name their measures freely. A name that this module knows gets its place and its spelling in
the field; any other gets a row too, after those, under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nanochat.common.figures import count, percent
from nanochat.common.record import Measure
from nanochat.report.content import Kind

CHAT_TASKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")
ABOUT_TRAINING = (
    "num_", "total_", "peak_", "tokens_", "packing_", "mfu", "rollout_", "skipped_",
)  # fmt: skip

# Means over the tasks that are listed below them; core_5_of_22 is one of CORE's tasks, in part.
SUMS = ("core", "chat_core", "mean_centred")
_SUM = re.compile(r"(core|chat_core|mean_centred)(_(\d+)_of_(\d+))?")
_PASS = re.compile(r"(.*?)_?pass_at_(\d+)")  # gsm8k_pass_at_8, or pass_at_8 of the only task

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
    if match := _PASS.fullmatch(name):
        return f"{label(match[1])} pass@{match[2]}".strip()
    if (match := _SUM.fullmatch(name)) and match[2]:
        return f"{label(match[1])}, {match[3]} of {match[4]} tasks"
    if name.startswith("core_"):
        return label(name.removeprefix("core_"))
    return _LABELS.get(name, name.replace("_", " "))


def is_sum(name: str) -> bool:
    return _SUM.fullmatch(name) is not None


def group(name: str, measure: Measure) -> str:
    """The one of ``SUMS`` that a measure is or belongs to; empty if to none."""
    if match := _SUM.fullmatch(name):
        return match[1]
    if name.startswith("core_"):
        return "core"
    match = _PASS.fullmatch(name)
    if (match[1] if match else name) in CHAT_TASKS:
        return "chat_core"
    return "mean_centred" if measure.chance is not None and match is None else ""


def tries(name: str) -> int | None:
    """k of pass@k; None of another measure."""
    match = _PASS.fullmatch(name)
    return int(match[2]) if match else None


def ordered(
    measures: Iterable[tuple[str, Measure]],
) -> list[tuple[str, Kind]]:
    """Names and kinds of their rows: text, then each mean and its tasks, then the rest.

    Within a group, the order in which they were measured.
    """
    found = dict(measures)
    groups = {name: group(name, measure) for name, measure in found.items()}
    summed = {groups[name] for name in found if is_sum(name)}

    def place(name: str) -> tuple[int, bool]:
        if name.endswith("_bpb"):
            return 0, False
        if groups[name]:
            return 1 + SUMS.index(groups[name]), not is_sum(name)
        return (9 if name.startswith(ABOUT_TRAINING) else 8), False

    def kind(name: str) -> Kind:
        if is_sum(name):
            return "sum"
        return "part" if groups[name] in summed else ""

    return [(name, kind(name)) for name in sorted(found, key=place)]


def show(name: str, measure: Measure) -> str:
    """``measure`` with its unit, which follows from its name, and its interval."""
    value, low, high = measure.value, measure.low, measure.high
    if name.endswith("_bpb"):
        above = f" (floor {100 * (value / measure.bound - 1):+.1f} %)" if measure.bound else ""
        return f"{value:.4f}{above}"
    has_interval = low is not None and high is not None
    if is_sum(name) and not name.startswith("mean"):
        return f"{value:.4f}" + (f" ({low:.4f} to {high:.4f})" if has_interval else "")
    if has_interval:
        assert low is not None and high is not None
        return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"
    if measure.chance is not None or tries(name) is not None:
        return percent(value)
    if name.endswith(("accuracy", "centred", "mfu", "waste", "share")):
        return percent(value)
    if name.endswith("_gib"):
        return f"{value:.1f} GiB"
    return count(value)


def set_aside(measure: Measure) -> str:
    """What did not go as an example should, by its count; empty if the stage did not count."""
    counts = {
        "malformed": measure.num_malformed,
        "too long": measure.num_too_long,
        "cut at the left": measure.num_cropped,
        "unanswered": measure.num_unanswered,
    }
    counted = [f"{number:,} {what}" for what, number in counts.items() if number]
    if not counted and any(number is not None for number in counts.values()):
        return "none"
    return ", ".join(counted)
