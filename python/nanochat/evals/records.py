"""One JSON object for each example of an evaluation, so that two models can be compared by example.

Ranks share the examples, and all get all records. ``nanochat report --against`` compares.

    {"task": "gsm8k", "index": 7, "prompt": ..., "reference": ..., "correct": true,
     "text": ..., "reason": "stop", "verdict": "right", "parts": [with tool calls, if any]}

With several samples of each example there is ``num_correct`` instead of ``correct``, and
``samples`` has what is in the last line, once for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist

from nanochat.common.paths import atomic_write

Record = dict[str, Any]
TOO_LONG = MappingProxyType({"text": "", "reason": "too_long", "verdict": "too_long"})  # not asked


def num_right(record: Record) -> int:
    """Samples of the example that are right."""
    return int(record["num_correct"] if "num_correct" in record else record["correct"])


def write_records(path: Path, records: Sequence[Record]) -> None:
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))


def share_of(num_examples: int) -> range:
    """The examples that this rank asks; all of them where there is one."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
    return range(rank, num_examples, world_size)


def gather(records: list[Record]) -> list[Record]:
    """Those of all ranks, on every rank, by index."""
    shares = [records]
    if _is_distributed():
        shares = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(shares, records)
    return sorted((record for share in shares for record in share), key=lambda r: int(r["index"]))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
