"""How likely continuations are: nats of tokens after others, and whether each was the likeliest.

Rows come in groups that begin alike, as the choices of a question do. What a group has in common is
computed once, and logits only where a token is scored:

    group   [ trunk: common to all rows ][ tail of choice 1 ]
                                         [ tail of choice 2 ]     the last token is only predicted

Cost of a group of c rows of n tokens with t in common, m of a row scored, against a forward of all
rows with logits everywhere (P weights of the blocks, V C of the head, 2 FLOP each):

    ours    (t + c (n - t)) (2 P + attention)  +  c m  (2 V C + softmax)
    plain   c n             (2 P + attention)  +  c n  (2 V C + softmax)

So c long prompts that differ in a word cost c times less, and a single row saves its head: a fifth
of the FLOP at d6 with V = 8192, more with the softmax over V, which is memory traffic. On the CPU
the native engine computes (csrc/engine/scorer.h): faster products, no padding, and in the last
layer only what is scored. Elsewhere PyTorch does, in padded batches.

Measured (scripts/bench/core.py; d4, C = 256, V = 8192, T = 1024, bf16, one core, shared): 6 to 13
times sooner for single rows, 17 for two long choices, 24 to 31 for four; 16 for all rows of the 14
tasks at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.engine import Engine
from nanochat.model import GPT
from nanochat.model.gpt import rms_norm
from nanochat.model.kv_cache import KVCache

BATCH_TOKENS = 32_768  # rows times capacity of the keys and values of a batch, with PyTorch
LOGIT_ELEMENTS = 1 << 26  # of logits at a time, with PyTorch: 256 MiB


class TokenRow(NamedTuple):
    """Token ids, of which ``ids[start:]`` are scored; 1 <= start < len(ids)."""

    ids: list[int]
    start: int


class Score(NamedTuple):
    """Of the scored tokens of a row."""

    nats: float  # -log p, summed; not finite if the model's logits are not
    num_tokens: int
    is_greedy: bool  # each was the likeliest token after those before it

    @property
    def mean_nats(self) -> float:
        return self.nats / self.num_tokens


Group = Sequence[TokenRow]
Scorer = Callable[[Sequence[Group]], list[list[Score]]]


def scorer(engine: Engine) -> Scorer:
    """Scores by ``engine``: by its native core, or with its PyTorch model in padded batches."""
    if engine.backend == "native":
        return lambda groups: native_scores(engine, groups)
    model = engine.model
    assert model is not None
    return lambda groups: torch_scores(model, groups)


def native_scores(engine: Engine, groups: Sequence[Group]) -> list[list[Score]]:
    """Scores by the native core; in the same bits whatever stands beside a group.

    Raises: ValueError for a row without scored tokens, or longer than the context and one more.
    """
    check_rows(groups, engine.context)
    found = engine.scores(groups)
    return [
        [
            Score(nats, len(row.ids) - row.start, is_greedy)
            for row, (nats, is_greedy) in zip(group, scores, strict=True)
        ]
        for group, scores in zip(groups, found, strict=True)
    ]


def check_rows(groups: Sequence[Group], context: int) -> None:
    """Raises: ValueError unless every row has scored tokens and fits."""
    for row in (row for group in groups for row in group):
        if not 1 <= row.start < len(row.ids):
            raise ValueError(
                f"likelihood: start must be 1 to {len(row.ids) - 1}, the row's last token, got "
                f"{row.start}"
            )
        if len(row.ids) > context + 1:
            raise ValueError(
                f"likelihood: a row must have at most {context} tokens and one that is only "
                f"predicted, got {len(row.ids)}; cut its beginning"
            )


@dataclass
class _Group:
    """A group of a batch. Positions from ``trunk`` on are computed row by row."""

    place: int  # among the groups asked for
    rows: Group
    trunk: int

    @property
    def longest(self) -> int:
        return max(len(row.ids) for row in self.rows) - 1


@torch.no_grad()
def torch_scores(model: GPT, groups: Sequence[Group]) -> list[list[Score]]:
    """Scores with PyTorch on the device of ``model``, long trunks first.

    Raises: ValueError as :func:`native_scores`.
    """
    check_rows(groups, model.config.seq_len)
    waiting = sorted(
        (_Group(i, group, common_length(group)) for i, group in enumerate(groups)),
        key=lambda group: group.longest,
    )
    scores: list[list[Score]] = [[] for _ in groups]
    while waiting:
        batch = [waiting.pop()]
        num_rows = len(batch[0].rows)
        capacity = batch[0].longest
        while waiting and (num_rows + len(waiting[-1].rows)) * capacity <= BATCH_TOKENS:
            num_rows += len(waiting[-1].rows)
            batch.append(waiting.pop())
        for group, found in zip(batch, _score_batch(model, batch), strict=True):
            scores[group.place] = found
    return scores


def common_length(rows: Group) -> int:
    """With how many equal tokens all rows begin, of those that are computed."""
    first = rows[0].ids
    length = min(len(row.ids) for row in rows) - 1
    for row in rows[1:]:
        if row.ids[:length] != first[:length]:
            length = next(i for i in range(length) if row.ids[i] != first[i])
    return length


def _score_batch(model: GPT, batch: Sequence[_Group]) -> list[list[Score]]:
    device = model.cos.device
    seq_len = model.config.seq_len
    width = max(group.longest - group.trunk for group in batch)
    for group in batch:  # tails are padded to one width, which must fit behind every trunk
        group.trunk = min(group.trunk, seq_len - width)
    widest = max(group.trunk for group in batch)
    cache = KVCache(
        model.config, len(batch), widest + width, device=device, dtype=model.compute_dtype
    )
    hidden: list[Tensor] = []  # of scored positions, (n, C)
    if widest > 0:
        ids = _padded([group.rows[0].ids[: group.trunk] for group in batch], widest, device)
        trunks = model.hidden(ids, cache=cache)
        _forget_padding(model, cache, ids, [group.trunk for group in batch])
    if width > 0:
        of_group = [i for i, group in enumerate(batch) for _ in group.rows]
        tails = [row.ids[group.trunk : -1] for group in batch for row in group.rows]
        rows = torch.tensor(of_group, device=device)
        cache.k, cache.v = cache.k[:, rows], cache.v[:, rows]
        cache.previous, cache.lengths = cache.previous[rows], cache.lengths[rows]
        after = model.hidden(_padded(tails, width, device), cache=cache)
    targets: list[int] = []
    r = 0
    for i, group in enumerate(batch):
        for row in group.rows:
            begin, end, trunk = row.start - 1, len(row.ids) - 1, group.trunk
            if begin < trunk:
                hidden.append(trunks[i, begin : min(end, trunk)])
            if end > trunk:
                hidden.append(after[r, max(begin - trunk, 0) : end - trunk])
            targets += row.ids[row.start :]
            r += 1
    nats, is_greedy = _price(model, torch.cat(hidden), torch.tensor(targets, device=device))
    scores: list[list[Score]] = []
    at = 0
    for group in batch:
        scores.append([])
        for row in group.rows:
            part = slice(at, at := at + len(row.ids) - row.start)
            scores[-1].append(
                Score(math.fsum(nats[part]), len(row.ids) - row.start, all(is_greedy[part]))
            )
    return scores


def _padded(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """(B, T) int64; nothing that counts ever sees what is right of a row."""
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(device)


def _forget_padding(model: GPT, cache: KVCache, ids: Tensor, lengths: Sequence[int]) -> None:
    """Let every row of ``cache`` end where its tokens do."""
    held = torch.tensor(lengths, device=ids.device)
    cache.lengths.copy_(held)
    if model.config.use_smear:
        last = ids.gather(1, (held - 1).clamp_min(0)[:, None])[:, 0]
        embedding = model.transformer.wte(last, model.compute_dtype)
        previous = rms_norm(embedding, model.config.norm_eps)
        cache.previous.copy_(previous * (held > 0)[:, None])


def _price(model: GPT, x: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    """-log p of each target after hidden states ``x`` (N, C), and whether it was the likeliest."""
    nats, is_greedy = [], []
    rows = max(1, LOGIT_ELEMENTS // model.config.vocab_size)
    for part, wanted in zip(x.split(rows), targets.split(rows), strict=True):
        softcap = model.config.softcap
        logits = model.lm_head(part)[:, : model.config.vocab_size].float()
        logits = softcap * torch.tanh(logits / softcap)
        nats.append(F.cross_entropy(logits, wanted, reduction="none").cpu())
        is_greedy.append((logits.argmax(dim=-1) == wanted).cpu())
    return torch.cat(nats).tolist(), torch.cat(is_greedy).tolist()
