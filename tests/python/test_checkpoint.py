"""Checkpoints are complete or absent: every kind of damage is seen, nothing complete is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from nanochat import checkpoint
from nanochat.checkpoint import TrainState, latest, load_model, load_train, save_checkpoint
from nanochat.common.errors import UserError
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks({bytes([i]): i for i in range(256)})


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT:
    model = GPT(GPTConfig.from_depth(1, vocab_size=tokenizer.vocab_size, seq_len=32, head_dim=32))
    model.init_weights(seed=5)
    return model


def save(root: Path, step: int, model: GPT, tokenizer: Tokenizer, **options: int) -> Path:
    state = TrainState({"a/b": torch.arange(4.0)}, {"position": {"step": step}})
    return save_checkpoint(
        root, step, model=model, tokenizer=tokenizer, meta={"stage": "t"}, train=state, **options
    )


def test_round_trip(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> None:
    folder = save(tmp_path, 7, model, tokenizer)
    assert latest(tmp_path) == folder
    loaded, same_tokenizer, meta = load_model(tmp_path)
    assert meta == {"step": 7, "stage": "t"}
    assert same_tokenizer.hash == tokenizer.hash
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    state = load_train(folder)
    assert state.position == {"position": {"step": 7}}
    assert torch.equal(state.tensors["a/b"], torch.arange(4.0))


def test_old_ones_go_when_new_ones_are_there(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, model, tokenizer, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000002", "step_000003"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "train/position.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_damage_is_seen_and_the_older_one_taken(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer, name: str, damage: str
) -> None:
    older = save(tmp_path, 1, model, tokenizer)
    newer = save(tmp_path, 2, model, tokenizer)
    file = newer / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"skipping .*step_000002: {name}"):
        assert latest(tmp_path) == older
    with pytest.raises(UserError, match=f"step_000002 is damaged: {name}"):
        load_model(newer)


def test_a_save_that_was_killed_leaves_no_trace(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = save(tmp_path, 1, model, tokenizer)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_json", kill)
        with pytest.raises(Killed):
            save(tmp_path, 2, model, tokenizer)
    assert latest(tmp_path) == older
    assert (tmp_path / ".step_000002.tmp").exists()
    newest = save(tmp_path, 3, model, tokenizer)
    assert latest(tmp_path) == newest
    assert not (tmp_path / ".step_000002.tmp").exists()


def test_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = save(tmp_path, 1, model, tokenizer)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot save .*step_000002.*No space left on device"):
        save(tmp_path, 2, model, tokenizer)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [older.name]
    assert latest(tmp_path) == older


def test_nothing_there_says_so(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    with pytest.raises(UserError, match="no complete checkpoint in"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="step_000009 is damaged: no such folder"):
        load_model(tmp_path / "step_000009")


def test_the_tokenizer_is_verified_too(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> None:
    folder = save(tmp_path, 1, model, tokenizer)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json has 2 bytes"):
        load_model(folder)
