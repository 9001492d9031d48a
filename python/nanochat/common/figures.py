"""Numbers as people read them: one spelling for the plan, the report card and the console."""

from __future__ import annotations

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count(value: float) -> str:
    """Three significant digits with a suffix: 1.38B, 256K, 999; scientific from 1e15 on."""
    if abs(value) >= 1e15:
        return f"{value:.2e}"
    for scale, suffix in _SUFFIXES:
        if abs(value) >= 0.9995 * scale:
            scaled = value / scale
            decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{decimals}f}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Two units at most: 0.4 s, 12 s, 3 min 05 s, 1 h 39 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def dollars(value: float) -> str:
    """Cents below $10, whole dollars above; $0 only for what costs nothing."""
    if value == 0:
        return "$0"
    return f"${value:.2f}" if value < 10 else f"${value:,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
