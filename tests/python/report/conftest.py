"""A small finished run, written the way the stages write theirs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanochat.common.hardware import Hardware
from nanochat.common.record import Measure, MetricsLog, StageRecord, read_stages, write_stage
from nanochat.report import markdown
from nanochat.report.card import card
from nanochat.report.runs import read_run

LAPTOP = Hardware(
    cpu="Imaginary 9000",
    num_cores=2,
    memory_gib=15.6,
    system="Linux 6.1",
    python="3.11.2",
    torch="2.9.1",
    nanochat="0.1.0",
)

TOOL_USE = {
    "messages": [
        {"role": "user", "content": "What is 12 times 7?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me compute. "},
                {"type": "python", "text": "12*7"},
                {"type": "python_output", "text": "84"},
                {"type": "text", "text": "It is 84."},
            ],
        },
    ]
}
HOSTILE_TEXT = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</td></table></section><style>*{display:none}</style>",
    "<a href='javascript:alert(1)'>a</a> \" onmouseover=alert(1) x=\"",
    "[link](javascript:alert(1)) ![image](https://evil.example/x.png)",
    "https://evil.example www.evil.example a@evil.example &lt;b&gt;",
    "# heading\n| a | b |\n| --- | --- |\n**bold**\n===\n- item\n1. one",
    "```\nout of the fence\n~~~\n````````\n</pre>",
    "reversed \u202e txet \u2066 nul \x00 bell \x07 half \ud800 mark \ufeff",
    "long " + 20_000 * "x",
    "\r\n\r<!-- -->\t<![CDATA[ ]]>",
)
HOSTILE = {
    "messages": [
        {"role": role, "content": text} for text in HOSTILE_TEXT for role in ("user", "assistant")
    ]
}


def record(minute: int, **fields: Any) -> StageRecord:
    defaults: dict[str, Any] = {
        "started": f"2026-01-01T00:{minute:02}:00+00:00",
        "seconds": 60.0,
        "command": "python scripts/stage.py --depth 4",
        "hardware": LAPTOP,
        "commit": "v0.1.0-3-gabcdef0",
    }
    return StageRecord(**{**defaults, **fields})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    accuracy = Measure(
        value=0.975, low=0.953, high=0.987, chance=0.25, num_examples=400, num_too_long=2
    )
    write_stage(run, "tok_train", record(0, seconds=4.2, metrics={"vocab_size": 4096}))
    write_stage(
        run,
        "base_train",
        record(1, seconds=301.0, model="base", metrics={"num_parameters": 36_700_242}),
    )
    write_stage(
        run,
        "base_eval",
        record(
            7,
            model="base",
            metrics={"val_bpb": 0.91, "story_bpb": Measure(value=1.1, bound=1)},
            samples=["Once upon a time there was a *fox*."],
        ),
    )
    write_stage(
        run,
        "chat_sft",
        record(8, model="sft", metrics={"val_bpb": 0.5}, config={"lr_scale": 0.25}),
    )
    write_stage(
        run,
        "chat_eval",
        record(
            9,
            model="sft",
            metrics={"capitals": accuracy, "mean_centred": 0.9667},
            conversations=[TOOL_USE, HOSTILE],
        ),
    )
    with MetricsLog(run / "base_train" / "metrics.jsonl") as log:
        for step in range(1, 51):
            log.write(step=step, loss=8.0 / step + 2, tokens_per_second=6e3 + step, lr=1.0)
        log.write(step=50, val_bpb=0.91, story_bpb=1.1)
    return run


@pytest.fixture
def other_run(run_dir: Path, tmp_path: Path) -> Path:
    """The same journey with another rate, a worse score, and no log."""
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "base_train" / "metrics.jsonl").unlink()
    change(other, "chat_sft", config={"lr_scale": 0.5}, seconds=90.0)
    worse = Measure(value=0.9, low=0.867, high=0.926, chance=0.25, num_examples=400)
    change(other, "chat_eval", metrics={"capitals": worse, "mean_centred": 0.8667})
    return other


def change(run: Path, stage: str, **fields: Any) -> None:
    """Replace ``fields`` of a record."""
    write_stage(run, stage, replace(read_stages(run)[stage], **fields))


def page_of(folder: Path, *, dollars_per_hour: float = 0.0) -> str:
    """The card of a run as markdown, without its figures."""
    page = card(read_run(folder), dollars_per_hour=dollars_per_hour)
    return markdown.render(page, lambda figure: f"plots/{figure}.svg")
