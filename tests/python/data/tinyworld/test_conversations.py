import hashlib
import json

import pytest

from nanochat.data.tinyworld import conversation
from nanochat.data.tinyworld.conversations import MIXTURE, SINGLE
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.conversation import validate


def test_conversations_are_the_same_everywhere_and_always() -> None:
    """If this fails because the world was changed on purpose, write the new value here."""
    texts = json.dumps([conversation(i, split="train", seed=1) for i in range(200)])
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "295a36b70dde714a"


@pytest.mark.parametrize("split", ["train", "val"])
def test_conversations_are_valid(split: str) -> None:
    for index in range(1000):
        validate(conversation(index, split=split, seed=3))  # type: ignore[arg-type]


def test_conversations_render_with_targets(byte_tokenizer: Tokenizer) -> None:
    has_tool = False
    for index in range(100):
        ids, mask = byte_tokenizer.render_conversation(conversation(index, split="train", seed=3))
        assert len(ids) == len(mask)
        assert any(mask)
        has_tool |= byte_tokenizer.python_start in ids
    assert has_tool


def test_shares_add_up() -> None:
    assert sum(share for share, _ in MIXTURE) == pytest.approx(1)
    assert sum(share for share, _ in SINGLE) == pytest.approx(1)
