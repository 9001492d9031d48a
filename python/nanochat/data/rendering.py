"""From items to token ids: what a tokenizer must offer to the loader, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nanochat.data.sources import Item

Rendered = tuple[Sequence[int], Sequence[int] | None]  # ids from BOS on; 1 where a token is learnt
Render = Callable[[list[Item]], list[Rendered]]


def render_text(encode_batch: Callable[[list[str]], list[list[int]]], *, bos: int) -> Render:
    """Renders documents: BOS, then the text; every token is a target."""

    def render(items: list[Item]) -> list[Rendered]:
        return [([bos, *ids], None) for ids in encode_batch(items)]

    return render


def render_chat(
    render_conversation: Callable[[Item], tuple[Sequence[int], Sequence[int]]],
) -> Render:
    """Renders conversations with a mask: only what the assistant says is a target."""

    def render(items: list[Item]) -> list[Rendered]:
        return [render_conversation(item) for item in items]

    return render
