"""Shared fixtures: seeded generators and a quiet, hermetic environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
