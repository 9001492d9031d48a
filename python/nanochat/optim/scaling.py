"""The depth dial: from the size of a model to batch, steps, learning-rate factor and weight decay.

P counts block matrices and lm_head, D = ratio P is the number of training tokens, and everything is
relative to the model of depth 12, on which upstream tuned its constants:

    batch         B  = 2^19 (D / D12)^0.383, rounded to a power of two      arXiv:2505.13738
    rates         lr ~ sqrt(B / 2^19)
    weight decay  wd = 0.28 sqrt(B / 2^19) D12 / D, so that wd lr D / B stays; arXiv:2405.13698
"""

from __future__ import annotations

import math
from dataclasses import dataclass

REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**19  # tokens
REFERENCE_WEIGHT_DECAY = 0.28
BATCH_EXPONENT = 0.383


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pretraining run in numbers."""

    total_batch_size: int  # tokens per step over all ranks
    num_steps: int
    lr_scale: float  # factor on learning rates
    weight_decay: float  # of Muon's matrices, before its schedule
    flops_per_token: int

    @property
    def num_tokens(self) -> int:
        return self.num_steps * self.total_batch_size

    @property
    def total_flops(self) -> int:
        return self.num_tokens * self.flops_per_token


def plan(
    *,
    num_scaling_params: int,
    reference_params: int,
    flops_per_token: int,
    param_data_ratio: float = 12.0,
    target_flops: float | None = None,
    num_iterations: int | None = None,
    total_batch_size: int | None = None,
    lr_scale: float | None = None,
    weight_decay: float | None = None,
) -> Plan:
    """Plan a run; what is given wins over what would be computed.

    Args:
        num_scaling_params: ``GPTConfig.num_scaling_params()`` of the model.
        reference_params: The same at ``REFERENCE_DEPTH`` with its vocabulary.
        flops_per_token: ``GPTConfig.flops_per_token()``.
        param_data_ratio: Tokens per scaling parameter; batch and weight decay follow it even when
            the number of steps is given otherwise.
        target_flops, num_iterations: Length of the run instead; steps win over FLOPs.
        total_batch_size: Tokens per step, any positive number.
    Raises: ValueError if a value is not positive or the run would have no step.
    """
    given = {
        "num_scaling_params": num_scaling_params,
        "reference_params": reference_params,
        "flops_per_token": flops_per_token,
        "param_data_ratio": param_data_ratio,
        "target_flops": target_flops,
        "num_iterations": num_iterations,
        "total_batch_size": total_batch_size,
        "lr_scale": lr_scale,
    }
    for name, value in given.items():
        if value is not None and value <= 0:
            raise ValueError(f"scaling: {name} must be positive, got {value}")

    data_ratio = num_scaling_params / reference_params  # D / D12
    if total_batch_size is None:
        ideal = REFERENCE_BATCH * data_ratio**BATCH_EXPONENT
        total_batch_size = 2 ** round(math.log2(ideal))
    batch_factor = math.sqrt(total_batch_size / REFERENCE_BATCH)

    if num_iterations is not None:
        num_steps = num_iterations
    elif target_flops is not None:
        num_steps = round(target_flops / (flops_per_token * total_batch_size))
    else:
        num_steps = int(param_data_ratio * num_scaling_params) // total_batch_size
    if num_steps < 1:
        raise ValueError(
            f"scaling: the run must have a step, got less than one batch of {total_batch_size} "
            "tokens; give num_iterations or a smaller total_batch_size"
        )
    return Plan(
        total_batch_size=total_batch_size,
        num_steps=num_steps,
        lr_scale=batch_factor if lr_scale is None else lr_scale,
        weight_decay=REFERENCE_WEIGHT_DECAY * batch_factor / data_ratio
        if weight_decay is None
        else weight_decay,
        flops_per_token=flops_per_token,
    )
