"""What others have measured: figures to stand beside ours, each with its source.

None of them was measured here. A score compares only where the set, the prompts and the number of
examples are the same; bits per byte only on the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

_GPT2 = "karpathy/nanochat, CORE of OpenAI's weights"
_OCTOBER = "karpathy/nanochat, discussion 1, 10/2025"
_LEADERBOARD = "karpathy/nanochat, leaderboard run 6"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model; ``values`` by name of measure, ``model`` the one of ours that it is like."""

    name: str
    model: str
    source: str
    values: Mapping[str, float]
    num_parameters: float
    hours: float | None = None  # up to this model
    dollars: float | None = None


PUBLISHED = (
    Published(
        name="GPT-2 124M",
        model="base",
        source=_GPT2,
        values={"core": 0.1139},
        num_parameters=124e6,
    ),
    Published(
        name="GPT-2 355M",
        model="base",
        source=_GPT2,
        values={"core": 0.1849},
        num_parameters=355e6,
    ),
    Published(
        name="GPT-2 774M",
        model="base",
        source=_GPT2,
        values={"core": 0.2146},
        num_parameters=774e6,
    ),
    Published(
        name="GPT-2 1558M",
        model="base",
        source=_GPT2,
        values={"core": 0.256525},
        num_parameters=1558e6,
        hours=168,
        dollars=43_000,
    ),
    Published(
        name="nanochat d20, pretrained",
        model="base",
        source=_OCTOBER,
        values={"core": 0.2219},
        num_parameters=561e6,
    ),
    Published(
        name="nanochat d24, pretrained",
        model="base",
        source=_LEADERBOARD,
        values={"core": 0.2626, "val_bpb": 0.71800},
        num_parameters=1_384_122_122,
        hours=1.65,
        dollars=48,
    ),
    Published(
        name="nanochat d32, pretrained",
        model="base",
        source="karpathy/nanochat, its cost alone",
        values={},
        num_parameters=1.879e9,
        hours=31.3,
        dollars=800,
    ),
    Published(
        name="nanochat d20, midtrained",
        model="sft",
        source=_OCTOBER,
        values={
            "arc_easy": 0.3561,
            "arc_challenge": 0.2875,
            "mmlu": 0.3111,
            "gsm8k": 0.0250,
            "humaneval": 0.0671,
            "chat_core": 0.0730,
        },
        num_parameters=561e6,
    ),
    Published(
        name="nanochat d20, finetuned",
        model="sft",
        source=_OCTOBER,
        values={
            "arc_easy": 0.3876,
            "arc_challenge": 0.2807,
            "mmlu": 0.3151,
            "gsm8k": 0.0455,
            "humaneval": 0.0854,
            "chat_core": 0.0884,
        },
        num_parameters=561e6,
        hours=3.85,
        dollars=92.4,
    ),
    Published(
        name="nanochat d20, after RL",
        model="rl",
        source=_OCTOBER,
        values={"gsm8k": 0.0758},
        num_parameters=561e6,
    ),
)


def comparable(model: str, names: Iterable[str], *, text: str) -> list[Published]:
    """Those to stand beside our ``model`` with measures ``names``; none if they share no measure.

    Args:
        text: What our bits per byte were measured on; published ones are of ClimbMix.
    """
    ours = {name for name in names if name != "val_bpb" or "climbmix" in text.lower()}
    like = [
        replace(published, values={n: v for n, v in published.values.items() if n in ours})
        for published in PUBLISHED
        if published.model == model
    ]
    if not any(published.values for published in like):
        return []
    # A row without a score stays only if it never had one: it is there for its time and cost.
    silent = {published.name for published in PUBLISHED if not published.values}
    return [published for published in like if published.values or published.name in silent]
