"""A run can take a tokenizer from elsewhere; that one can be trained is in test_stages.py."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.interop import write_tiktoken
from nanochat.train.tok import TokTrainConfig, load_tokenizer, tok_train


@pytest.mark.parametrize("name", ["tokenizer.json", "ranks.tiktoken", "tokenizer.pkl"])
def test_ranks_replace_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train(["the other house has other words"] * 9, 300, num_threads=1)
    path = tmp_path / name
    if path.suffix == ".json":
        tokenizer.save(path)
    elif path.suffix == ".tiktoken":
        write_tiktoken(tokenizer, path)
    else:
        path.write_bytes(pickle.dumps(tokenizer.to_tiktoken()))

    config = TokTrainConfig(out=tmp_path / "run", ranks=path)
    tok_train(config)
    assert load_tokenizer(tmp_path / "run").hash == tokenizer.hash
    record = json.loads((tmp_path / "run" / "tok_train" / "stage.json").read_text())
    assert record["metrics"]["vocab_size"]["value"] == tokenizer.vocab_size
    assert record["metrics"]["bytes_per_token"]["value"] >= 1.0
    assert record["config"]["ranks"] == str(path)
    assert "merges for" not in capsys.readouterr().out

    tok_train(config)
    assert "done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="has other options: ranks"):
        tok_train(TokTrainConfig(out=tmp_path / "run"))


def test_bad_ranks_leave_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "bad.tiktoken").write_bytes(b"AA== 0\n")
    with pytest.raises(UserError, match=r"bad\.tiktoken: all 256 bytes must be tokens"):
        tok_train(TokTrainConfig(out=tmp_path, ranks=tmp_path / "bad.tiktoken"))
    assert not (tmp_path / "tokenizer.json").exists()
