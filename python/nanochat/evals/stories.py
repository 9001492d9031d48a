"""Tinyworld's stories against their entropy: a text of which we know how predictable it is."""

from __future__ import annotations

import torch

from nanochat.data.tinyworld import story_bits
from nanochat.evals.bpb import bits_per_byte
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer

_ROWS = 16  # stories of one forward


def story_bpb(
    model: GPT, tokenizer: Tokenizer, *, num_stories: int, seed: int
) -> tuple[float, float]:
    """Bits per byte of held-out stories under ``model``, and the bound that no model is below."""
    stories = [story_bits(index, split="val", seed=seed) for index in range(num_stories)]
    num_bytes = sum(len(text.encode()) for text, _ in stories)
    rows = [[tokenizer.bos, *ids] for ids in tokenizer.encode_batch([text for text, _ in stories])]
    device = next(model.parameters()).device
    batches = []
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        width = min(max(map(len, part)), model.config.seq_len + 1)
        ids = torch.full((len(part), width), tokenizer.bos)
        targets = torch.full((len(part), width), -1)
        for i, row in enumerate(part):
            kept = torch.tensor(row[:width])
            ids[i, : len(kept)] = kept
            targets[i, : len(kept)] = kept
        batches.append((ids[:, :-1].to(device), targets[:, 1:].to(device)))
    bound = sum(bits for _, bits in stories) / num_bytes
    return bits_per_byte(model, batches, tokenizer.token_bytes()), bound
