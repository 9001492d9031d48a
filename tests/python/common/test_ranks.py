"""Device, dtype and world of one process; worlds of several are in train/test_stages.py."""

from __future__ import annotations

import pytest
import torch

from nanochat.common.errors import UserError
from nanochat.common.ranks import compute_dtype, default_device, ranks


def test_one_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks("cpu") as world:
        assert (world.rank, world.world_size, world.device.type) == (0, 1, "cpu")
        assert world.is_main
        assert world.sum(torch.tensor(3.0)).item() == 3.0
        world.barrier()
    assert not torch.distributed.is_initialized()


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="device: must be cuda, cpu or mps, got tpu"), ranks("tpu"):
        pass
    if not torch.cuda.is_available():
        assert default_device() in ("cpu", "mps")
        with pytest.raises(UserError, match="no CUDA device is visible"), ranks("cuda"):
            pass


def test_dtype_by_name_then_environment_then_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_dtype("cpu", "bf16") == torch.bfloat16
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp32")
    assert compute_dtype("cpu") == torch.float32
    monkeypatch.setenv("NANOCHAT_DTYPE", "fp8")
    with pytest.raises(UserError, match="dtype: must be one of fp32, bf16, got fp8"):
        compute_dtype("cpu")
