"""What a call costs, in this process and in a child."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.testing import child


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_counts_what_is_given_back_before_the_end() -> None:
    bytearray(300_000_000)  # before the clock: does not count
    length, cost = child.measure(lambda: len(bytearray(100_000_000)))
    assert length == 100_000_000
    assert cost.peak_bytes is None or 90e6 < cost.peak_bytes < 150e6


def test_a_call_that_waits_takes_wall_time_alone() -> None:
    _, cost = child.measure(lambda: time.sleep(0.05))
    assert cost.wall_s >= 0.05 and cost.cpu_s < 0.05


def test_a_child_answers_on_its_last_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "print('noise')\n"
        "print(json.dumps([sys.argv[1], os.environ['RAYON_NUM_THREADS']]))\n"
    )
    assert child.run(str(script), "argument", num_threads=3) == ["argument", "3"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("sys.exit('error: no text')", "failed: no text"),
        ("os.kill(os.getpid(), 9)", "failed: exit status -9"),
    ],
)
def test_a_child_that_fails_is_named(tmp_path: Path, line: str, reason: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys\n{line}\n")
    with pytest.raises(UserError, match=reason):
        child.run(str(script), num_threads=1)
