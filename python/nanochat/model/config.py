"""Shape and constants of a model, all of them, so that a saved model can be rebuilt from data.

Two presets share one model. ``classic`` is the plain transformer of October 2025, the shape that
transformers' NanoChat class implements; ``modern`` adds value embeddings, windows, smear, backout
and residual scalars. A preset only fills in defaults: after construction every constant stands in
a field and is saved, so that a constant changed here later cannot change a model saved before.

The counts at the end are closed forms; the depth dial (``optim.scaling``) plans runs from them
without building a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Arch = Literal["classic", "modern"]

# A field with this default takes the value of its preset, or one computed from the other fields.
_BY_ARCH: Any = None

_PRESETS: dict[str, dict[str, Any]] = {
    "classic": {
        "rope_base": 10_000.0,
        "qk_scale": 1.0,
        "window_pattern": "L",
        "value_embedding_period": 0,
        "use_smear": False,
        "use_backout": False,
        "use_residual_lambdas": False,
    },
    "modern": {
        "rope_base": 100_000.0,
        "qk_scale": 1.2,
        "window_pattern": "SSSL",
        "value_embedding_period": 2,
        "use_smear": True,
        "use_backout": True,
        "use_residual_lambdas": True,
    },
}

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
    "Arch": (str,),
}


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Architecture of a ``GPT``. Construct it directly, by :meth:`from_depth` or :meth:`from_dict`.

    Raises: ValueError, one line, naming the field, the rule and the value.
    """

    n_layer: int
    n_head: int
    n_kv_head: int  # divides n_head
    n_embd: int  # n_head * head_dim
    vocab_size: int  # tokens that can be predicted, special tokens included
    seq_len: int  # training context
    arch: Arch = "modern"

    head_dim: int = _BY_ARCH
    mlp_ratio: int = 4
    pad_vocab_to: int = 64  # rows of the tables and of lm_head are a multiple of this
    norm_eps: float = 2.0**-23
    rope_base: float = _BY_ARCH
    qk_scale: float = _BY_ARCH  # factor on q and on k after their norm
    softcap: float = 15.0

    window_pattern: str = _BY_ARCH  # one letter per layer, repeated: L full, S short_window
    short_window: int = _BY_ARCH  # keys visible to the left of a query besides its own
    value_embedding_period: int = _BY_ARCH  # every so many layers, counted from the last; 0 none
    ve_gate_channels: int = 12
    ve_gate_scale: float = 3.0
    use_smear: bool = _BY_ARCH
    smear_gate_channels: int = 24
    use_backout: bool = _BY_ARCH
    backout_layer: int = _BY_ARCH  # the stream after this block is subtracted before the final norm
    use_residual_lambdas: bool = _BY_ARCH

    def __post_init__(self) -> None:
        if self.arch not in _PRESETS:
            _fail("arch", f"must be one of {sorted(_PRESETS)}", self.arch)
        for name in ("n_layer", "n_head", "n_kv_head", "n_embd", "vocab_size", "seq_len"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                _fail(name, "must be a positive integer", value)
        derived = {
            "head_dim": self.n_embd // self.n_head,
            # A quarter of the context in whole tiles of 128 keys: 512 at T = 2048.
            "short_window": math.ceil(self.seq_len / 4 / 128) * 128,
            "backout_layer": self.n_layer // 2,
        }
        for name, value in {**_PRESETS[self.arch], **derived}.items():
            if getattr(self, name) is _BY_ARCH:
                object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = _KINDS[str(field.type)]
            # bool is an int to Python, but "n_layer": true in a config file is a mistake.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                _fail(field.name, f"must be of type {field.type}", value)
        for name in ("head_dim", "mlp_ratio", "pad_vocab_to", "short_window", "norm_eps"):
            if getattr(self, name) <= 0:
                _fail(name, "must be positive", getattr(self, name))
        for name in ("rope_base", "qk_scale", "softcap"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                _fail(name, "must be positive and finite", value)
        if self.head_dim * self.n_head != self.n_embd:
            rule = f"must be n_head * head_dim = {self.n_head} * {self.head_dim}"
            _fail("n_embd", rule, self.n_embd)
        if self.head_dim % 2:
            _fail("head_dim", "must be even, since rope rotates pairs", self.head_dim)
        if self.n_head % self.n_kv_head:
            _fail("n_kv_head", f"must divide n_head = {self.n_head}", self.n_kv_head)
        if not self.window_pattern or set(self.window_pattern) - {"S", "L"}:
            _fail("window_pattern", "must be letters S and L", self.window_pattern)
        if self.value_embedding_period < 0:
            rule = "must be positive, or 0 for none"
            _fail("value_embedding_period", rule, self.value_embedding_period)
        if self.value_embedding_period and not 0 < self.ve_gate_channels <= self.n_embd:
            _fail("ve_gate_channels", f"must be 1 to n_embd = {self.n_embd}", self.ve_gate_channels)
        if self.ve_gate_scale != 3.0:
            _fail(
                "ve_gate_scale",
                "must be 3, which the kernels of the pre-pass hold",
                self.ve_gate_scale,
            )
        if self.use_smear and not 0 < self.smear_gate_channels <= self.n_embd:
            rule = f"must be 1 to n_embd = {self.n_embd}"
            _fail("smear_gate_channels", rule, self.smear_gate_channels)
        if not 0 <= self.backout_layer < self.n_layer:
            _fail(
                "backout_layer",
                f"must be 0 to n_layer - 1 = {self.n_layer - 1}",
                self.backout_layer,
            )

    @classmethod
    def from_depth(
        cls,
        depth: int,
        *,
        arch: Arch = "modern",
        vocab_size: int,
        seq_len: int,
        head_dim: int = 128,
    ) -> Self:
        """The dial: width is 64 per layer, rounded up to whole heads."""
        if depth < 1 or head_dim < 1:
            _fail("from_depth", "depth and head_dim must be positive", (depth, head_dim))
        n_head = math.ceil(64 * depth / head_dim)
        return cls(
            n_layer=depth,
            n_head=n_head,
            n_kv_head=n_head,
            n_embd=n_head * head_dim,
            vocab_size=vocab_size,
            seq_len=seq_len,
            arch=arch,
            head_dim=head_dim,
        )

    def to_dict(self) -> dict[str, int | float | bool | str]:
        """Every field, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`. Strict: a constant that is missing is not guessed.

        Raises: ValueError for unknown or missing keys, and as the constructor does.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            _fail("from_dict", f"unknown keys; known are {', '.join(sorted(known))}", unknown)
        if missing := sorted(known - {name for name, value in values.items() if value is not None}):
            _fail("from_dict", "every constant must be present, missing", missing)
        return cls(**values)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table, the value tables and lm_head."""
        return math.ceil(self.vocab_size / self.pad_vocab_to) * self.pad_vocab_to

    def windows(self) -> tuple[int | None, ...]:
        """Per layer: w if query i sees keys i - w to i, None if all. The last layer sees all."""
        pattern = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        pattern[-1] = "L"
        return tuple(self.short_window if letter == "S" else None for letter in pattern)

    def has_value_embedding(self, layer: int) -> bool:
        """Whether ``layer`` adds a value embedding: the last does, then every period-th before."""
        period = self.value_embedding_period
        return period > 0 and (self.n_layer - 1 - layer) % period == 0

    def num_block_parameters(self) -> int:
        """Matrices inside the blocks, gates of the value embeddings included: Muon's share."""
        attention = 2 * self.n_embd * self.n_embd + 2 * self.n_embd * self._kv_dim
        mlp = 2 * self.mlp_ratio * self.n_embd * self.n_embd
        gates = self._num_value_embeddings * self.n_kv_head * self.ve_gate_channels
        return self.n_layer * (attention + mlp) + gates

    def num_scaling_params(self) -> int:
        """Block matrices and lm_head: the P of the scaling formulas, look-up tables left out."""
        return self.num_block_parameters() + self.padded_vocab_size * self.n_embd

    def num_parameters(self) -> int:
        """All parameters."""
        wte = self.padded_vocab_size * self.n_embd
        value_tables = self._num_value_embeddings * self.padded_vocab_size * self._kv_dim
        smear = self.smear_gate_channels + 1 if self.use_smear else 0  # gate row and lambda
        lambdas = 2 * self.n_layer if self.use_residual_lambdas else 0
        scalars = smear + lambdas + int(self.use_backout)
        return self.num_scaling_params() + wte + value_tables + scalars

    def flops_per_token(self) -> int:
        """Training FLOPs per token, forward and backward, at full context.

        6 per weight of every Linear (gates and lm_head included) and 12 d per visible key; look-ups
        count nothing. Source: PaLM, arXiv:2204.02311, appendix B.
        """
        linear = self.num_scaling_params() + (self.smear_gate_channels if self.use_smear else 0)
        keys = sum(self.seq_len if w is None else min(w, self.seq_len) for w in self.windows())
        return 6 * linear + 12 * self.n_embd * keys

    @property
    def _kv_dim(self) -> int:
        return self.n_kv_head * self.head_dim

    @property
    def _num_value_embeddings(self) -> int:
        return sum(self.has_value_embedding(layer) for layer in range(self.n_layer))


def _fail(name: str, rule: str, value: object) -> None:
    raise ValueError(f"config: {name} {rule}, got {value!r}")
