"""Published figures: plausible, sourced, and only beside the same measure."""

from __future__ import annotations

from nanochat.report.measures import CHAT_TASKS
from nanochat.report.published import PUBLISHED, comparable
from nanochat.report.runs import MODELS


def test_every_figure_names_its_source() -> None:
    assert len({published.name for published in PUBLISHED}) == len(PUBLISHED)
    for published in PUBLISHED:
        assert "karpathy/nanochat" in published.source
        assert published.model in MODELS
        assert all(0 < value < 1 for value in published.values.values())
        assert published.values.keys() <= {*CHAT_TASKS, "core", "chat_core", "val_bpb"}


def test_only_what_the_run_has_too() -> None:
    found = comparable("sft", ["gsm8k", "facts"], text="")
    assert [published.name for published in found] == [
        "nanochat d20, midtrained", "nanochat d20, finetuned",
    ]  # fmt: skip
    assert [published.values for published in found] == [{"gsm8k": 0.0250}, {"gsm8k": 0.0455}]
    assert comparable("sft", ["facts", "val_bpb"], text="climbmix") == []
    assert comparable("rl", ["mmlu"], text="") == []


def test_bits_per_byte_compare_on_the_same_text_alone() -> None:
    assert comparable("base", ["val_bpb"], text="tinyworld") == []
    names = [p.name for p in comparable("base", ["val_bpb"], text="/data/ClimbMix")]
    assert "nanochat d24, pretrained" in names
    assert "GPT-2 124M" not in names
