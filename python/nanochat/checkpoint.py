"""Checkpoints that are complete or absent, verified when read, free of pickle.

    <root>/step_000400/  model.safetensors  fp32 weights
                         config.json        GPTConfig, and what the stage remembers
                         tokenizer.json     so that a checkpoint can be talked to on its own
                         train/             optimizer as full logical tensors; place in the data
                         manifest.json      size and SHA-256 of every file above, written last

A save goes to a temporary folder, every file is fsynced, then one rename makes it visible. A folder
without a manifest that matches is torn: :func:`latest` skips it with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat.common.errors import UserError
from nanochat.common.paths import fsync_dir
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

MANIFEST = "manifest.json"


@dataclass
class TrainState:
    """What training needs besides the weights, to continue bit for bit.

    ``tensors`` holds full logical tensors, independent of the world size; ``position`` is JSON.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    position: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    root: Path,
    step: int,
    *,
    model: GPT,
    tokenizer: Tokenizer,
    meta: dict[str, Any],
    train: TrainState | None = None,
    keep: int = 2,
) -> Path:
    """Write ``root/step_%06d`` and drop all but the newest ``keep``; returns the new folder.

    Raises: UserError if the disk is full or not writable. Nothing that was complete is lost: older
        checkpoints go only after the new one is visible.
    """
    final = root / f"step_{step:06d}"
    temporary = root / f".{final.name}.tmp"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(".step_*.tmp"):
            shutil.rmtree(stale)
        (temporary / "train").mkdir(parents=True)
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        _write_json(
            temporary / "config.json",
            {"format": 1, "step": step, "model": model.config.to_dict(), "meta": meta},
        )
        tokenizer.save(temporary / "tokenizer.json")
        if train is not None:
            save_file(train.tensors, temporary / "train" / "optimizer.safetensors")
            _write_json(temporary / "train" / "position.json", train.position)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {
            str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _hash(path)}
            for path in files
        }
        for path in files:
            _fsync(path)
        _write_json(temporary / MANIFEST, manifest)
        _fsync(temporary / MANIFEST)
        fsync_dir(temporary / "train")
        fsync_dir(temporary)
        if final.exists():  # a torn one of the same step, or a rerun that overwrites
            shutil.rmtree(final)
        temporary.rename(final)
        fsync_dir(root)
        for old in _steps(root)[keep:]:
            shutil.rmtree(old)
    except (OSError, SafetensorError, UserError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"checkpoint: cannot save {final}: {error}; older ones are intact"
        ) from error
    return final


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint under ``root``; damaged ones are skipped, with a warning."""
    for folder in _steps(root):
        damage = _damage(folder)
        if damage is None:
            return folder
        warnings.warn(f"checkpoint: skipping {folder}: {damage}", stacklevel=2)
    return None


def load_model(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """Model (eval mode, activations in ``dtype``), tokenizer and meta of a checkpoint.

    ``path`` is a ``step_*`` folder or a folder of them, of which the newest complete one is taken.
    Raises: UserError if nothing complete is there, or a byte of it is missing or changed.
    """
    folder = resolve(Path(path))
    config = _read_json(folder / "config.json")
    try:
        model = GPT(GPTConfig.from_dict(config["model"]), compute_dtype=dtype)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"checkpoint: {folder} does not hold a model of ours: {error}") from error
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return model.to(device).eval(), tokenizer, {"step": config["step"], **config["meta"]}


def load_train(path: Path) -> TrainState:
    """The training state beside the weights. Raises: UserError if the checkpoint has none."""
    folder = resolve(path)
    optimizer = folder / "train" / "optimizer.safetensors"
    if not optimizer.exists():
        raise UserError(f"checkpoint: {folder} has no training state to resume from")
    return TrainState(load_file(optimizer), _read_json(folder / "train" / "position.json"))


def resolve(path: Path) -> Path:
    """``path`` itself if it is a complete checkpoint, else the newest one in it."""
    if (path / MANIFEST).exists() or path.name.startswith("step_"):
        damage = _damage(path)
        if damage is not None:
            raise UserError(f"checkpoint: {path} is damaged: {damage}; take another or train again")
        return path
    found = latest(path)
    if found is None:
        raise UserError(f"checkpoint: no complete checkpoint in {path}")
    return found


def _steps(root: Path) -> list[Path]:
    """Checkpoint folders under ``root``, newest first."""
    return sorted((p for p in root.glob("step_*") if p.is_dir()), reverse=True)


def _damage(folder: Path) -> str | None:
    """None if every file is as the manifest says, else what is wrong, in a few words."""
    if not folder.is_dir():
        return "no such folder"
    if not (folder / MANIFEST).exists():
        return "no manifest, the save did not finish"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable manifest ({error})"
    for name, (num_bytes, digest) in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != num_bytes:
            return f"{name} has {file.stat().st_size} bytes, expected {num_bytes}"
        if _hash(file) != digest:
            return f"{name} does not match its SHA-256"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint: cannot read {path}: {error}") from error
    assert isinstance(content, dict)
    return content
