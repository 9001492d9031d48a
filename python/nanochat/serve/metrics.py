"""Counters of the server in the text format of Prometheus."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping

from nanochat.engine import Completion

# Of the engine's statistics(), as far as its core counts them.
_ENGINE_COUNTERS = {
    "computed_tokens": "Tokens that went through the model: of prompts, answers and wrong drafts.",
    "cached_tokens": "Tokens of prompts that did not: their keys and values were there already.",
    "drawn_tokens": "Tokens that the model chose.",
    "drafted_tokens": "Tokens guessed ahead.",
    "accepted_tokens": "Tokens guessed ahead that the model then chose.",
    "steps": "Calls of the model.",
    "step_seconds": "Seconds in them.",
    "preemptions": "Answers that gave their pages up and started again later.",
}
_TTFT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bucket edges


class Metrics:
    """Counts since the start; gauges are asked for when the text is made."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()  # by reason
        self._errors: Counter[str] = Counter()  # by code
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._ttft_buckets = [0] * (len(_TTFT_SECONDS) + 1)
        self._ttft_sum = 0.0

    def completed(self, completion: Completion) -> None:
        usage = completion.usage
        self._requests[completion.reason] += 1
        self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens
        if usage.completion_tokens:
            seconds = usage.ttft_ms / 1e3
            self._ttft_buckets[bisect.bisect_left(_TTFT_SECONDS, seconds)] += 1
            self._ttft_sum += seconds

    def refused(self, code: str) -> None:
        self._errors[code] += 1

    def text(
        self,
        *,
        connections: int,
        running: int,
        queued: int,
        engine: Mapping[str, float],
        uptime_s: float,
    ) -> str:
        lines: list[str] = []

        def add(name: str, kind: str, text: str, samples: dict[str, float]) -> None:
            lines.append(f"# HELP nanochat_{name} {text}")
            lines.append(f"# TYPE nanochat_{name} {kind}")
            lines.extend(f"nanochat_{name}{labels} {value}" for labels, value in samples.items())

        reasons = ("stop", "length", "cancelled")
        codes = ("bad_request", "too_long", "busy", "unauthorized", "internal")
        add("connections", "gauge", "Open websockets.", {"": connections})
        add("requests_running", "gauge", "Requests that hold a slot.", {"": running})
        add("requests_queued", "gauge", "Requests that wait for a slot.", {"": queued})
        add("uptime_seconds", "gauge", "Seconds since the server started.", {"": uptime_s})
        add("requests_total", "counter", "Answers that ended, by reason.",
            {f'{{reason="{reason}"}}': self._requests[reason] for reason in reasons})  # fmt: skip
        add("errors_total", "counter", "Error messages sent, by code.",
            {f'{{code="{code}"}}': self._errors[code] for code in codes})  # fmt: skip
        add("prompt_tokens_total", "counter", "Tokens of prompts.", {"": self._prompt_tokens})
        add("completion_tokens_total", "counter", "Tokens of answers.",
            {"": self._completion_tokens})  # fmt: skip
        for key, text in _ENGINE_COUNTERS.items():
            if key in engine:
                add(f"engine_{key}_total", "counter", text, {"": engine[key]})
        if pages := engine.get("pages"):
            free, idle = engine["free_pages"], engine["idle_pages"]
            states = {"free": free, "idle": idle, "held": pages - free - idle}
            add("engine_pages", "gauge", "Pages of keys and values; idle ones are kept for reuse.",
                {f'{{state="{state}"}}': count for state, count in states.items()})  # fmt: skip
        add("ttft_seconds", "histogram", "Time from a request to its first token.", {})
        total = 0
        for edge, count in zip((*_TTFT_SECONDS, "+Inf"), self._ttft_buckets, strict=True):
            total += count
            lines.append(f'nanochat_ttft_seconds_bucket{{le="{edge}"}} {total}')
        lines.append(f"nanochat_ttft_seconds_sum {self._ttft_sum}")
        lines.append(f"nanochat_ttft_seconds_count {total}")
        return "\n".join(lines) + "\n"
