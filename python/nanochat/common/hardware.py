"""What this machine is, in the words of the report card and of the plan. Costs milliseconds."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

import nanochat


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One machine and the software that decides how fast it is."""

    cpu: str
    num_cores: int  # that this process may use
    memory_gib: float
    gpus: tuple[str, ...] = ()
    gpu_memory_gib: float = 0.0  # of the smallest GPU
    system: str = ""
    python: str = ""
    torch: str = ""
    cuda: str = ""  # that torch was built for; empty without
    nanochat: str = ""


def probe() -> Hardware:
    """Describe the machine; GPUs are those that ``CUDA_VISIBLE_DEVICES`` leaves visible."""
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(i) for i in range(count)]
    return Hardware(
        cpu=_cpu_name(),
        num_cores=num_cores(),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        gpus=tuple(p.name for p in properties),
        gpu_memory_gib=min((p.total_memory / 2**30 for p in properties), default=0.0),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        nanochat=nanochat.__version__,
    )


def num_cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and cpusets
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()
