"""AdamW against torch.optim.AdamW where both are defined, and fp32 moments for bf16 parameters."""

from __future__ import annotations

import torch

from nanochat.optim.adamw import adamw_update

SETTINGS = {"lr": 0.03, "betas": (0.8, 0.96), "eps": 1e-10, "weight_decay": 0.1}


def test_matches_torch() -> None:
    start = torch.randn(7, 13)
    reference = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([reference], **SETTINGS)
    param, exp_avg, exp_avg_sq = start.clone(), torch.zeros(7, 13), torch.zeros(7, 13)
    for step in range(1, 11):
        grad = torch.randn(7, 13)
        reference.grad = grad.clone()
        optimizer.step()
        adamw_update(grad, param, exp_avg, exp_avg_sq, step=step, **SETTINGS)
        torch.testing.assert_close(param, reference.detach(), rtol=2e-6, atol=2e-7)
    state = optimizer.state[reference]
    torch.testing.assert_close(exp_avg, state["exp_avg"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(exp_avg_sq, state["exp_avg_sq"], rtol=1e-5, atol=1e-7)


def test_scalars_have_no_dimensions_to_spare() -> None:
    param, exp_avg, exp_avg_sq = torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0)
    settings = SETTINGS | {"weight_decay": 0.0}
    adamw_update(torch.tensor(5.0), param, exp_avg, exp_avg_sq, step=1, **settings)
    torch.testing.assert_close(param, torch.tensor(1.0 - 0.03))  # the first step is lr * sign


def test_zero_gradient_only_decays() -> None:
    param = torch.ones(5)
    adamw_update(torch.zeros(5), param, torch.zeros(5), torch.zeros(5), step=1, **SETTINGS)
    torch.testing.assert_close(param, torch.full((5,), 1 - 0.03 * 0.1))


def test_bf16_parameters_keep_moving_moments() -> None:
    param = torch.randn(64, dtype=torch.bfloat16)
    exp_avg, exp_avg_sq = torch.zeros(64), torch.ones(64)
    grad = torch.full((64,), 1.1, dtype=torch.bfloat16)
    settings = SETTINGS | {"betas": (0.8, 0.995)}
    before = param.clone()
    adamw_update(grad, param, exp_avg, exp_avg_sq, step=1, **settings)
    # 0.1 % above one: a bf16 moment would have stayed at one.
    expected = 0.995 + 0.005 * float(grad[0]) ** 2
    torch.testing.assert_close(exp_avg_sq, torch.full((64,), expected))
    assert param.dtype == torch.bfloat16
    assert not torch.equal(param, before)
