"""The optimizer: Muon for the matrices of the blocks, AdamW for all else, over one rank or many.

A step has three phases, so that communication runs under arithmetic: launch the reduction of every
gradient; then, group by group, wait for its reduction, update the own part, launch its gather;
then wait for the gathers. With one rank the same phases run without communication.

The state is saved as whole logical tensors under the names of the parameters, so a checkpoint knows
nothing of the number of ranks that wrote it: ``full_state`` and ``load_full_state``. The state_dict
of torch.optim numbers parameters and would hold this rank's part only; it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from nanochat.common.ranks import compute_dtype
from nanochat.optim.adamw import AdamWList
from nanochat.optim.collectives import World
from nanochat.optim.muon import MuonStack

_SETTINGS = {
    "adamw": {"lr", "betas", "eps", "weight_decay"},
    "muon": {"lr", "momentum", "beta2", "weight_decay"},
}


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW behind one ``step``; sharded when a process group is up at construction.

    Args:
        groups: From :func:`nanochat.optim.build_groups`: dicts with ``kind`` (muon, adamw),
            ``params``, their ``names`` in the same order, and the settings of the kind: adamw lr,
            betas, eps, weight_decay; muon lr, momentum, beta2, weight_decay. The matrices of a muon
            group have one shape. Settings are read at each step, so a schedule writes them there.
        inner_dtype: Of Muon's matrix products. None takes bf16 where the device is fast in it, else
            fp32; decided here, once.
    Gradients: local sums, already divided by the global number of targets: ranks are summed, not
        averaged. Every parameter needs one, and a step consumes them (over several ranks they hold
        partial sums afterwards). What a NaN does: ``ops.muon``; the loop guards against it.
    Raises: ValueError for groups that break these rules.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, inner_dtype: torch.dtype | None = None
    ) -> None:
        self._world = World.current()
        self._inner_dtype = inner_dtype
        self._names: set[str] = set()
        self._parts: list[AdamWList | MuonStack] = []
        super().__init__(groups, defaults={})

    @property
    def inner_dtype(self) -> torch.dtype | None:
        """Dtype of Muon's matrix products; None while no muon group has decided it."""
        return self._inner_dtype

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _check(param_group, self._names)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        names, params = group["names"], group["params"]
        self._names.update(names)
        if group["kind"] == "adamw":
            self._parts.append(AdamWList(names, params, group, self._world))
        else:
            if self._inner_dtype is None:
                self._inner_dtype = compute_dtype(params[0].device)
            stack = MuonStack(names, params, group, self._world, inner_dtype=self._inner_dtype)
            self._parts.append(stack)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Reduce, update, gather. Collective.

        Raises: ValueError if a parameter has no gradient; nothing is changed then.
        """
        for group in self.param_groups:
            for name, param in zip(group["names"], group["params"], strict=True):
                if param.grad is None:
                    raise ValueError(
                        f"muon_adamw: every parameter needs a gradient, {name} has none"
                    )
        for part in self._parts:
            part.launch_reduce()
        for part in self._parts:
            part.update()
        for part in self._parts:
            part.finish()

    @torch.no_grad()
    def full_state(self) -> dict[str, Tensor]:
        """Every state as a whole CPU tensor, keyed ``<parameter>/<state>``. Collective.

        Returns: A copy on rank 0; an empty dict on the others.
        """
        state: dict[str, Tensor] = {}
        for part in self._parts:
            for key, tensor in part.full_state():
                if self._world.rank == 0:
                    state[key] = tensor.to("cpu", copy=True)
        return state

    @torch.no_grad()
    def load_full_state(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's part of a :meth:`full_state` written by any number of ranks.

        Every rank is handed the whole mapping; it may load its tensors when they are asked for.
        Raises: ValueError if keys or shapes are not those of this optimizer; it keeps its state.
        """
        expected = {k: shape for part in self._parts for k, shape in part.state_shapes().items()}
        if wrong := sorted(set(state) ^ set(expected)):
            raise ValueError(
                f"muon_adamw: state must have the parameters of the model, {len(wrong)} keys are "
                f"missing or unknown, first {wrong[0]}"
            )
        for key, shape in expected.items():
            if (got := state[key].shape) != shape:
                raise ValueError(
                    f"muon_adamw: {key} must have shape {tuple(shape)}, got {tuple(got)}"
                )
        for part in self._parts:
            part.load(state)

    def state_dict(self) -> NoReturn:
        raise NotImplementedError("muon_adamw: use full_state, which any number of ranks can load")

    def load_state_dict(self, state_dict: object) -> NoReturn:
        raise NotImplementedError("muon_adamw: use load_full_state")


def _check(group: Mapping[str, Any], taken: set[str]) -> None:
    kind = group.get("kind")
    if kind not in _SETTINGS:
        raise ValueError(f"muon_adamw: kind must be one of {sorted(_SETTINGS)}, got {kind!r}")
    if missing := sorted((_SETTINGS[kind] | {"params", "names"}) - set(group)):
        raise ValueError(f"muon_adamw: a {kind} group needs {', '.join(missing)}")
    names, params = list(group["names"]), list(group["params"])
    if len(names) != len(params):
        raise ValueError(
            f"muon_adamw: names must match params, got {len(names)} names, {len(params)} params"
        )
    if twice := sorted({name for name in names if name in taken or names.count(name) > 1}):
        raise ValueError(f"muon_adamw: names must be unique, got {twice[0]} twice")
    if kind == "muon" and (
        len(shapes := {tuple(p.shape) for p in params}) > 1 or params[0].ndim != 2
    ):
        raise ValueError(
            f"muon_adamw: a muon group holds matrices of one shape, got {sorted(shapes)}"
        )
