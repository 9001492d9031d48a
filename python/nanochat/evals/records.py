"""One JSON object for each example of an evaluation, so that two models can be compared by example.

    {"task": "gsm8k", "index": 7, "prompt": ..., "reference": ..., "correct": true,
     "text": ..., "reason": "stop", "verdict": "right", "parts": [with tool calls, if any]}

With several samples of each example ``correct`` counts the right ones, and ``samples`` has what is
in the last line, once for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nanochat.common.paths import atomic_write

Record = dict[str, Any]
TOO_LONG = MappingProxyType({"text": "", "reason": "too_long", "verdict": "too_long"})  # not asked


def write_records(path: Path, records: Sequence[Record]) -> None:
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))
