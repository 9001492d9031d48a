"""Measures: the order of rows and the spelling of values."""

from __future__ import annotations

import pytest

from nanochat.common.record import Measure
from nanochat.report.measures import label, ordered, set_aside, show


def accuracy(value: float = 0.5) -> Measure:
    return Measure(value=value, low=value - 0.1, high=value + 0.1, chance=0.25)


def test_means_stand_above_their_tasks() -> None:
    names = ["mfu", "core_copa", "facts", "gsm8k", "mean_centred", "chat_core", "core", "val_bpb",
             "core_arc_easy", "answer_length", "mmlu"]  # fmt: skip
    plain = ("mfu", "mean_centred", "chat_core", "core", "val_bpb", "answer_length")
    found = ordered((n, Measure(value=0.5) if n in plain else accuracy()) for n in names)
    assert found == [
        ("val_bpb", ""),
        ("core", "sum"), ("core_copa", "part"), ("core_arc_easy", "part"),
        ("chat_core", "sum"), ("gsm8k", "part"), ("mmlu", "part"),
        ("mean_centred", "sum"), ("facts", "part"),
        ("answer_length", ""),
        ("mfu", ""),
    ]  # fmt: skip


def test_tasks_without_their_mean_are_no_parts() -> None:
    assert ordered([("gsm8k", accuracy()), ("facts", accuracy())]) == [("gsm8k", ""), ("facts", "")]


@pytest.mark.parametrize(
    ("name", "measure", "text"),
    [
        ("val_bpb", Measure(value=0.91), "0.9100"),
        ("story_bpb", Measure(value=1.1, bound=1.0), "1.1000 (floor +10.0 %)"),
        ("core", Measure(value=0.256525), "0.2565"),
        ("core", Measure(value=0.25, low=0.24, high=0.26), "0.2500 (0.2400 to 0.2600)"),
        ("core_copa", accuracy(), "50.0 % (40.0 to 60.0)"),
        ("pass_at_8", Measure(value=0.125), "12.5 %"),
        ("gsm8k_pass_at_8", Measure(value=0.125), "12.5 %"),
        ("core_5_of_22", Measure(value=0.25), "0.2500"),
        ("rollout_share", Measure(value=0.25), "25.0 %"),
        ("mean_centred", Measure(value=-0.01), "-1.0 %"),
        ("peak_memory_gib", Measure(value=75.41), "75.4 GiB"),
        ("num_parameters", Measure(value=36_700_242), "36.7M"),
        ("anything", Measure(value=float("nan")), "nan"),
    ],
)
def test_values(name: str, measure: Measure, text: str) -> None:
    assert show(name, measure) == text


def test_labels() -> None:
    names = {
        "core": "CORE",
        "core_arc_easy": "ARC-Easy",
        "core_boolq": "boolq",
        "core_5_of_22": "CORE, 5 of 22 tasks",
        "chat_core_3_of_6": "ChatCORE, 3 of 6 tasks",
        "pass_at_4": "pass@4",
        "gsm8k_pass_at_16": "GSM8K pass@16",
        "before_pass_at_1": "before pass@1",
        "spelling_bee": "SpellingBee",
        "story_bpb": "story bpb",
    }
    assert {name: label(name) for name in names} == names


def test_a_part_of_core_stands_above_its_tasks_too() -> None:
    found = ordered([("core_copa", accuracy()), ("core_1_of_22", Measure(value=0.5))])
    assert found == [("core_1_of_22", "sum"), ("core_copa", "part")]


def test_what_was_counted() -> None:
    assert set_aside(Measure(value=0.5)) == ""
    assert set_aside(Measure(value=0.5, num_too_long=0)) == "none"
    assert set_aside(Measure(value=0.5, num_cropped=3)) == "3 cut at the left"
    assert set_aside(Measure(value=0.5, num_malformed=2, num_too_long=0, num_unanswered=1234)) == (
        "2 malformed, 1,234 unanswered"
    )
