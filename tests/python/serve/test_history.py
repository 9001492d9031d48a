"""Old turns go whole, oldest first, and only as many as must."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.serve.history import newest_turns
from nanochat.tokenizer import Tokenizer


def talk(num_turns: int, *, system: bool = False) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be kind"}] if system else []
    for i in range(num_turns):
        messages += [
            {"role": "user", "content": f"question {i}"},
            {"role": "assistant", "content": f"answer {i}"},
        ]
    return [*messages, {"role": "user", "content": "last"}]


@pytest.mark.parametrize("system", [False, True])
def test_what_fits_is_kept_whole(byte_tokenizer: Tokenizer, system: bool) -> None:
    messages = talk(6, system=system)
    whole = byte_tokenizer.render_prompt({"messages": messages})
    assert newest_turns(byte_tokenizer, messages, limit=len(whole)) == (whole, 0)
    for limit in range(20, len(whole)):
        ids, num_dropped = newest_turns(byte_tokenizer, messages, limit=limit)
        assert num_dropped % 2 == 0
        head = messages[:1] if system else []
        kept = [*head, *messages[len(head) + num_dropped :]]
        assert ids == byte_tokenizer.render_prompt({"messages": kept})
        assert len(ids) <= max(limit, len(newest_turns(byte_tokenizer, messages, limit=0)[0]))
        more = [*head, *messages[len(head) + num_dropped - 2 :]]
        assert len(byte_tokenizer.render_prompt({"messages": more})) > limit or num_dropped == 0


def test_the_last_turn_stays_however_long(byte_tokenizer: Tokenizer) -> None:
    messages = talk(2)
    ids, num_dropped = newest_turns(byte_tokenizer, messages, limit=1)
    assert num_dropped == 4
    assert ids == byte_tokenizer.render_prompt({"messages": messages[-1:]})
