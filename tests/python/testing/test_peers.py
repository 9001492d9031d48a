"""Peers do the same task as ours."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nanochat.testing import peers, texts
from nanochat.tokenizer import Tokenizer, train_bpe

DOCUMENTS = texts.generate("mixed", 50_000)


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.from_ranks(train_bpe(DOCUMENTS, 600, num_threads=1))


def test_trainers_learn_as_many_tokens(ours: Tokenizer) -> None:
    tokens = peers.train_rustbpe(DOCUMENTS, 600)
    assert Tokenizer(tokens).hash == ours.hash
    assert len(peers.train_tokenizers(DOCUMENTS, 600)) == 600


@pytest.mark.parametrize("make", peers.ENCODERS.values(), ids=peers.ENCODERS)
def test_encoders_have_the_same_ids(ours: Tokenizer, make: peers.MakeEncode) -> None:
    assert peers.ids_or_failure(make(ours), DOCUMENTS) == ours.encode_batch(
        DOCUMENTS, num_threads=1
    )


def test_a_panic_is_a_failure_and_ctrl_c_is_not() -> None:
    class PanicException(BaseException):  # as pyo3 names it
        pass

    def fail(error: BaseException) -> peers.Encode:
        def encode(documents: Sequence[str]) -> list[list[int]]:
            raise error

        return encode

    panic, refusal = PanicException("stack overflow"), ValueError("too long")
    assert peers.ids_or_failure(fail(panic), DOCUMENTS) == "PanicException: stack overflow"
    assert peers.ids_or_failure(fail(refusal), DOCUMENTS) == "ValueError: too long"
    with pytest.raises(KeyboardInterrupt):
        peers.ids_or_failure(fail(KeyboardInterrupt()), DOCUMENTS)
