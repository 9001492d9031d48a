"""What a process of the BPE benchmark measures, called in this one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanochat.common.errors import UserError
from nanochat.testing import peers, texts
from nanochat.testing.bpe_child import AT_ONCE, measure_encoding, measure_training
from nanochat.testing.texts import Texts
from nanochat.tokenizer import Tokenizer, train_bpe

DOCUMENTS = texts.generate("mixed", 20_000)


@pytest.fixture
def request_for_ids(tmp_path: Path) -> dict[str, Any]:
    saved = Texts.save(DOCUMENTS, tmp_path / "texts.jsonl")
    ours = Tokenizer.from_ranks(train_bpe(DOCUMENTS, 400, num_threads=1))
    ours.save(tmp_path / "tokenizer.json")
    return {
        "texts": asdict(saved),
        "is_raw": False,
        "tokenizer": str(tmp_path / "tokenizer.json"),
        "num_cpus": 2,
        "rounds": 2,
    }


def test_all_but_hugging_face_learn_the_same_tokens(tmp_path: Path) -> None:
    saved = Texts.save(DOCUMENTS, tmp_path / "texts.jsonl")
    hashes = {}
    for name in ("ours", "ours, Arrow", AT_ONCE, "rustbpe", "tokenizers"):
        request = {
            "texts": asdict(saved),
            "contender": name,
            "num_threads": 1,
            "vocab_size": 400,
        }
        answer = measure_training(request)
        assert answer["tokens"] == 400 and answer["wall_s"] > 0
        hashes[name] = answer["sha256"]
    assert (
        hashes["ours"]
        == hashes["ours, Arrow"]
        == hashes[AT_ONCE]
        == hashes["rustbpe"]
        != hashes["tokenizers"]
    )


def test_every_encoder_has_a_time_in_every_round(request_for_ids: dict[str, Any]) -> None:
    answer = measure_encoding(request_for_ids)
    assert answer["num_bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    ours = {"ours first", "ours warm", "ours, 2 threads"}
    assert answer["seconds"].keys() == ours | peers.ENCODERS.keys()
    assert all(len(times) == 2 for times in answer["seconds"].values())


def test_other_ids_are_refused(
    request_for_ids: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        peers.ENCODERS, "tiktoken", lambda ours: lambda documents: [[0] for _ in documents]
    )
    with pytest.raises(UserError, match="the ids of tiktoken must be equal to ours"):
        measure_encoding(request_for_ids)


def test_an_encoder_that_gives_up_says_why(
    request_for_ids: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(documents: object) -> list[Any]:
        raise ValueError("too long")

    monkeypatch.setitem(peers.ENCODERS, "tiktoken", lambda ours: give_up)
    answer = measure_encoding(request_for_ids)
    assert answer["failures"] == {"tiktoken": "ValueError: too long"}
    assert "tiktoken" not in answer["seconds"]
