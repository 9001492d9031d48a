"""Which turns of a conversation the model still sees when not all of them fit its context."""

from __future__ import annotations

from typing import Any

from nanochat.tokenizer import Tokenizer

Messages = list[dict[str, Any]]


def newest_turns(tokenizer: Tokenizer, messages: Messages, *, limit: int) -> tuple[list[int], int]:
    """Prompt of the newest turns that fit ``limit`` tokens, and the number of messages left out.

    A system message stays. The last turn stays too, so the prompt may be longer than ``limit``.
    Costs one pass over the text: special tokens keep the turns apart, so their lengths add up.
    """
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns, last = messages[len(system) : -1], messages[-1]
    sizes = [
        len(tokenizer.render_conversation({"messages": turns[i : i + 2]})[0]) - 1  # without BOS
        for i in range(0, len(turns), 2)
    ]
    used = len(tokenizer.render_prompt({"messages": [*system, last]}))
    num_dropped = 0
    for i in reversed(range(len(sizes))):
        used += sizes[i]
        if used > limit:
            num_dropped = 2 * (i + 1)
            break
    kept = [*system, *turns[num_dropped:], last]
    return tokenizer.render_prompt({"messages": kept}), num_dropped
