"""The probe says something true of whatever machine runs the tests."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import nanochat
from nanochat.common import hardware


def test_probe_describes_this_machine() -> None:
    here = hardware.probe()
    assert here.cpu
    assert here.num_cores >= 1
    assert here.memory_gib > 0.1
    assert len(here.gpus) == torch.cuda.device_count()
    assert (here.torch, here.nanochat) == (torch.__version__, nanochat.__version__)
    json.dumps(asdict(here))


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor : 0\nmodel name\t: Imaginary   9000\n", "Imaginary 9000"),
        ("processor : 0\n", ""),
    ],
)
def test_cpu_name_is_found_where_the_kernel_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str
) -> None:
    """ARM kernels give no model name; the platform's is taken then."""
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert hardware._cpu_name(path) == (name or "aarch64")
