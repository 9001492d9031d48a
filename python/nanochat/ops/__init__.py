"""Operations with a native path: one function per capability, one reference for each."""

from nanochat.ops import reference
from nanochat.ops.adamw import adamw
from nanochat.ops.attention import attention, prepass
from nanochat.ops.backends import Backend, Path, backends, force
from nanochat.ops.cross_entropy import cross_entropy
from nanochat.ops.muon import muon

__all__ = [
    "Backend",
    "Path",
    "adamw",
    "attention",
    "backends",
    "cross_entropy",
    "force",
    "muon",
    "prepass",
    "reference",
]
