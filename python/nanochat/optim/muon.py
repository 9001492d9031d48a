"""Muon for the matrices inside the blocks: the update, and one rank's share of a stack of them.

The momentum is replaced by the nearest semi-orthogonal matrix, so that every direction of the input
learns at one rate. Matrices of one shape are stacked and updated together; over several ranks each
owns ceil(K / world) whole matrices of the K, since the iteration needs all rows and columns.

Cost per n x m matrix, n <= m: 5 (4 n^2 m + 2 n^3) FLOP of matrix products; at d = 256 these are
1.5 GFLOP for an MLP matrix and .5 for one of attention. All else is a few passes over memory.

Inner dtype on a CPU with AVX512_BF16, 2 cores, 16 matrices 256 x 256, error against fp64:
fp32 52 ms, 2e-6; bf16 15 ms, 1.2e-2; fp16 2,400 ms (no instruction for it), 1.5e-3. bf16 with each
polynomial rounded once (baddbmm) is 2 to 4 times closer than with its terms rounded apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.optim.collectives import Pending, World

# Odd quintics x -> a x + b x^3 + c x^5, applied in turn; safety factor 2e-2, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
_MIN_NORM = 1e-6  # a dead row or an all-zero gradient stays zero and does not become NaN


def orthogonalize(g: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Nearest semi-orthogonal matrices, rows equilibrated first, Frobenius norm sqrt(min(m, n)).

    Args:
        g: (K, m, n), fp32.
        dtype: Of the matrix products.
    Returns: (K, m, n), fp32.
    Numerics: singular values above a thousandth of the Frobenius norm land in 0.859 to 1.141, the
        range of the composed polynomial; the last rescaling moves all by a common factor near 1.
        Rows and norm are scaled in fp32 and rounded to ``dtype`` once; upstream rounds before and
        after each.
    Source: Polar Express, arXiv:2505.16932; MuonEq, arXiv:2603.28254; Muon+, arXiv:2602.21545.
    """
    # MuonEq: every row takes the root mean square of the row norms.
    row_norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)  # (K, m, 1)
    mean_norm = torch.linalg.vector_norm(row_norm, dim=-2, keepdim=True) / math.sqrt(g.shape[-2])
    x = g * (mean_norm / row_norm.clamp_min(_MIN_NORM))
    # The largest singular value is at most 1 / 1.01, inside the polynomials' interval.
    x = (x / (1.01 * _frobenius(x) + _MIN_NORM)).to(dtype)

    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if is_tall else x
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b A + c A^2
        x = torch.baddbmm(x, poly, x, beta=a)
    result: Tensor = (x.mT if is_tall else x).float()

    # Muon+: the Frobenius norm of an exactly semi-orthogonal matrix.
    return result.mul_(math.sqrt(min(g.shape[-2:])) / _frobenius(result).clamp_min(_MIN_NORM))


def reduced_dim(shape: Sequence[int]) -> int:
    """Where NorMuon averages: over the columns (-1) if m >= n, else over the rows (-2)."""
    return -1 if shape[-2] >= shape[-1] else -2


def muon_update(
    grads: Tensor,
    params: Tensor,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    *,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
    inner_dtype: torch.dtype,
) -> None:
    """One Muon step in place on ``params`` and on both states.

    Args:
        grads, params: (K, m, n), fp32.
        momentum_buffer: (K, m, n), fp32.
        second_moment: (K, m, 1) if m >= n, else (K, 1, n), fp32.
        lr: Before the factor sqrt(max(1, m / n)) of tall matrices.
        inner_dtype: Of the matrix products in :func:`orthogonalize`.
    Numerics: a NaN or infinity in one gradient makes that matrix and its states NaN and leaves the
        other matrices alone.
    Source: Muon, kellerjordan.github.io/posts/muon; NorMuon, arXiv:2510.05491.
    """
    momentum_buffer.lerp_(grads, 1 - momentum)
    g = orthogonalize(torch.lerp(grads, momentum_buffer, momentum), dtype=inner_dtype)

    # NorMuon: neurons whose updates are usually large are damped; the norm of the whole is kept.
    # There is no bias correction, because the rescaling removes any common factor.
    norm = _frobenius(g)
    mean_square = g.square().mean(dim=reduced_dim(g.shape), keepdim=True)
    second_moment.lerp_(mean_square, 1 - beta2)
    g = g * second_moment.clamp_min(1e-10).rsqrt()
    g *= norm / _frobenius(g).clamp_min(1e-10)

    # Cautious decay: only weights that the update already moves towards zero.
    lr *= math.sqrt(max(1.0, g.shape[-2] / g.shape[-1]))
    shrinks = (g * params) >= 0
    params.sub_(lr * (g + weight_decay * params * shrinks))


class MuonStack:
    """Matrices of one shape, those that this rank owns, and their states."""

    def __init__(
        self,
        names: Sequence[str],
        params: Sequence[nn.Parameter],
        settings: Mapping[str, Any],
        world: World,
        *,
        inner_dtype: torch.dtype,
    ) -> None:
        self._names, self._params, self._settings = list(names), list(params), settings
        self._world, self._inner_dtype = world, inner_dtype
        num_padded = math.ceil(len(params) / world.size) * world.size
        share = world.share(num_padded)
        self._padded_shape = (num_padded, *params[0].shape)
        self._owned = slice(min(share.start, len(params)), min(share.stop, len(params)))
        num_owned = self._owned.stop - self._owned.start
        m, n = params[0].shape
        second_shape = (m, 1) if reduced_dim((m, n)) == -1 else (1, n)
        self._momentum = params[0].new_zeros((num_owned, m, n), dtype=torch.float32)
        self._second_moment = self._momentum.new_zeros((num_owned, *second_shape))
        self._pending = Pending()

    def launch_reduce(self) -> None:
        grads = []
        for param in self._params:
            assert param.grad is not None
            grads.append(param.grad)
        self._stack = grads[0].new_zeros(self._padded_shape)
        torch.stack(grads, out=self._stack[: len(grads)])
        self._grads, self._pending = self._world.reduce_scatter(self._stack)

    def update(self) -> None:
        """Wait for the gradients, update the own matrices, launch the gather of all."""
        self._pending.wait()
        own = self._params[self._owned]
        if own:
            params = torch.stack([p.detach() for p in own]).float()
            muon_update(
                self._grads[: len(own)].float(),
                params,
                self._momentum,
                self._second_moment,
                lr=self._settings["lr"],
                momentum=self._settings["momentum"],
                beta2=self._settings["beta2"],
                weight_decay=self._settings["weight_decay"],
                inner_dtype=self._inner_dtype,
            )
            self._stack[self._owned].copy_(params)  # the sum has left it: it carries parameters now
        del self._grads
        self._pending = self._world.all_gather(self._stack)

    def finish(self) -> None:
        self._pending.wait()
        for param, updated in zip(self._params, self._stack, strict=False):  # padding comes last
            param.detach().copy_(updated)
        del self._stack

    def full_state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each state; collective."""
        for key, own in self._states():
            full = own.new_zeros(self._padded_shape[0], *own.shape[1:])
            full[self._owned] = own
            self._world.all_gather(full).wait()
            for name, matrix in zip(self._names, full, strict=False):
                yield f"{name}/{key}", matrix

    def state_shapes(self) -> dict[str, torch.Size]:
        return {f"{n}/{key}": own.shape[1:] for key, own in self._states() for n in self._names}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for key, own in self._states():
            for name, matrix in zip(self._names[self._owned], own, strict=True):
                matrix.copy_(state[f"{name}/{key}"])

    def _states(self) -> tuple[tuple[str, Tensor], ...]:
        return ("momentum", self._momentum), ("second_moment", self._second_moment)


def _frobenius(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return norm  # (K, 1, 1)
