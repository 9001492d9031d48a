"""``nanochat info``: this machine, this build, and which path serves which operation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from nanochat import _core, ops
from nanochat.common.hardware import probe
from nanochat.common.paths import home
from nanochat.common.ranks import compute_dtype, default_device
from nanochat.engine.native import ISAS
from nanochat.ops.backends import CPU_LEVELS


@dataclass(frozen=True)
class InfoConfig:
    """Say which native path serves which operation on this machine, and why."""


def info(_: InfoConfig) -> None:
    """Print the table."""
    hardware = probe()
    device = default_device()
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    console = Console(soft_wrap=True)
    console.print(f"nanochat {hardware.nanochat}, torch {hardware.torch}, files in {home()}")
    cuda = "with CUDA kernels" if _core.cuda_built() else "without CUDA kernels"
    level = CPU_LEVELS[_core.cpu_level()]
    console.print(f"native core: built {cuda}, CPU rows run at {level}", highlight=False)
    console.print(f"machine: {hardware.cpu}, {hardware.num_cores} cores", highlight=False)
    for name in hardware.gpus:
        console.print(f"GPU: {name}", highlight=False)
    console.print(f"default device {device}, activations in {dtype}", highlight=False)
    table = Table("op", "device", "path", "why", box=None, pad_edge=False)
    for row in ops.backends():
        if row.device in ("cpu", device) or torch.cuda.is_available():
            table.add_row(row.op, row.device, row.path, row.reason)
    table.add_row("engine", "cpu", "native", f"{ISAS[_core.best_isa()]} instructions")
    if torch.cuda.is_available():
        why = "not yet verified on hardware; opt in with NativeOptions(cuda_device=0)"
        table.add_row("engine", "cuda", "torch", why)
        with ops.force("native"):  # probes our kernels here
            for row in ops.backends():
                if row.device == "cuda":
                    table.add_row(row.op, "cuda, opt-in", row.path, row.reason)
    console.print(table)
