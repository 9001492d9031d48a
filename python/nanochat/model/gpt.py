"""The GPT: one module, two architectures (SPEC of the constants: config.py).

classic  embed, norm, L x [attention, relu^2 MLP], norm, untied head, softcap 15
modern   adds, in this order: smear, residual scalars over x and x0 per layer, gated value
         embeddings on every second layer, 1.2 on normed queries and keys, windows, backout

Weights are fp32 masters, cast to ``compute_dtype`` where they are used; the residual stream lives
in ``compute_dtype``; norms, softcap and loss are computed in fp32. Attention and loss run through
``nanochat.ops``.
State-dict keys are those of karpathy/nanochat, so that checkpoints are interchangeable.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat import ops
from nanochat.model.config import GPTConfig
from nanochat.model.kv_cache import KVCache

Reduction = Literal["sum", "none"]


class Linear(nn.Module):
    """y = x W^T without bias; the fp32 weight (out, in) is cast to the dtype of ``x``."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_out, num_in))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Module):
    """Rows of an fp32 table (V, C), returned in ``dtype``."""

    def __init__(self, num_rows: int, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, num_channels))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.weight).to(dtype)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.window = config.windows()[layer]
        width, kv_width = config.n_embd, config.n_kv_head * config.head_dim
        self.c_q = Linear(width, config.n_head * config.head_dim)
        self.c_k = Linear(width, kv_width)
        self.c_v = Linear(width, kv_width)
        self.c_proj = Linear(config.n_head * config.head_dim, width)
        self.ve_gate = (
            Linear(config.ve_gate_channels, config.n_kv_head)
            if config.has_value_embedding(layer)
            else None
        )

    def forward(
        self, x: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Tensor:
        """``x`` (B, T, C) normed; ``ve`` (B, T, Hkv, D) or None; ``cos``, ``sin`` per position."""
        config = self.config
        batch, num_new = x.shape[:2]
        q = self.c_q(x).view(batch, num_new, config.n_head, config.head_dim)
        k = self.c_k(x).view(batch, num_new, config.n_kv_head, config.head_dim)
        v = self.c_v(x).view(batch, num_new, config.n_kv_head, config.head_dim)
        gate = self.ve_gate(x[..., : config.ve_gate_channels]) if self.ve_gate is not None else None
        if cache is None:
            y = ops.attention(
                q, k, v, cos, sin,
                window=self.window, qk_scale=config.qk_scale, eps=config.norm_eps, ve=ve, gate=gate,
            )  # fmt: skip
        else:
            y = self._attend_cached(q, k, v, cos, sin, ve, gate, cache)
        out: Tensor = self.c_proj(y.reshape(batch, num_new, -1))
        return out

    def _attend_cached(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        ve: Tensor | None,
        gate: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        """Rows differ in position, so ``cos`` and ``sin`` are per row here: (B, T, D / 2)."""
        config = self.config
        options = {"qk_scale": config.qk_scale, "eps": config.norm_eps}
        q, k, v = ops.prepass(q, k, v, cos, sin, ve=ve, gate=gate, **options)
        cache.write(self.layer, k, v)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            cache.k[self.layer].transpose(1, 2).to(q.dtype),
            cache.v[self.layer].transpose(1, 2).to(q.dtype),
            attn_mask=cache.mask(q.shape[1], self.window),
            enable_gqa=config.n_head != config.n_kv_head,
        )
        return y.transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.relu(self.c_fc(x)).square())
        return out


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attn(rms_norm(x, self.eps), ve, cos, sin, cache)
        out: Tensor = x + self.mlp(rms_norm(x, self.eps))
        return out


class Transformer(nn.Module):
    """Holds the embedding and the blocks under the key names of the checkpoint format."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.padded_vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))


class GPT(nn.Module):
    """Decoder-only language model.

    Source: karpathy/nanochat; rotary embedding arXiv:2104.09864, QK-norm arXiv:2010.04245, value
    embeddings and residual scalars from the modded-nanogpt speedruns.
    """

    def __init__(self, config: GPTConfig, *, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.transformer = Transformer(config)
        self.lm_head = Linear(config.n_embd, config.padded_vocab_size)
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): Embedding(config.padded_vocab_size, config.n_kv_head * config.head_dim)
                for layer in range(config.n_layer)
                if config.has_value_embedding(layer)
            }
        )
        if config.use_residual_lambdas:
            self.resid_lambdas = nn.Parameter(torch.empty(config.n_layer))
            self.x0_lambdas = nn.Parameter(torch.empty(config.n_layer))
        if config.use_smear:
            self.smear_gate = Linear(config.smear_gate_channels, 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        if config.use_backout:
            self.backout_lambda = nn.Parameter(torch.empty(1))
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    @torch.no_grad()
    def init_weights(self, *, seed: int) -> None:
        """Fill every parameter from one seeded CPU generator, in state-dict order."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        bound = math.sqrt(3.0 / config.n_embd)  # uniform of standard deviation 1 / sqrt(C)
        modern = config.arch == "modern"

        def normal(parameter: Tensor, std: float) -> None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

        def uniform(parameter: Tensor, low: float, high: float) -> None:
            draw = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(low + (high - low) * draw)

        normal(self.transformer.wte.weight, 0.8 if modern else 1.0)
        for module in self.transformer.h:
            assert isinstance(module, Block)
            for linear in (module.attn.c_q, module.attn.c_k, module.attn.c_v, module.mlp.c_fc):
                if modern:
                    scale = 0.4 if linear is module.mlp.c_fc else 1.0
                    uniform(linear.weight, -scale * bound, scale * bound)
                else:
                    num_out, num_in = linear.weight.shape
                    normal(linear.weight, min(1.0, math.sqrt(num_out / num_in)) / math.sqrt(num_in))
            module.attn.c_proj.weight.zero_()
            module.mlp.c_proj.weight.zero_()
            if module.attn.ve_gate is not None:
                uniform(module.attn.ve_gate.weight, 0.0, 0.02)
        if modern:
            normal(self.lm_head.weight, 0.001)
        else:
            self.lm_head.weight.zero_()
        for table in self.value_embeds.values():
            assert isinstance(table, Embedding)
            uniform(table.weight, -bound, bound)
        if config.use_residual_lambdas:
            depth = torch.arange(config.n_layer) / max(1, config.n_layer - 1)  # 0 to 1
            self.resid_lambdas.copy_(1.15 - 0.10 * depth)
            self.x0_lambdas.copy_(0.20 - 0.15 * depth)
        if config.use_smear:
            uniform(self.smear_gate.weight, 0.0, 0.02)
            self.smear_lambda.zero_()
        if config.use_backout:
            self.backout_lambda.fill_(0.2)

    def forward(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V), fp32, of the token after each of ``ids`` (B, T) int64.

        With ``cache``, ``ids`` continue what each of its rows holds, and the rows advance by T.
        Raises: ValueError if the tokens do not fit seq_len or the cache.
        """
        x = self.hidden(ids, cache=cache)
        logits = self.lm_head(x)[..., : self.config.vocab_size].float()
        softcap = self.config.softcap
        return softcap * torch.tanh(logits / softcap)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Sum over targets of -log p, nats, fp32 scalar; targets (B, T) int64, -1 is ignored."""
        return self._cross_entropy(ids, targets, reduction="sum")

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        """-log p of each target, (B, T) fp32, 0 where the target is -1."""
        return self._cross_entropy(ids, targets, reduction="none").view(targets.shape)

    def _cross_entropy(self, ids: Tensor, targets: Tensor, *, reduction: Reduction) -> Tensor:
        x = self.hidden(ids)
        return ops.cross_entropy(
            x.view(-1, x.shape[-1]),
            self.lm_head.weight.to(x.dtype),
            targets.reshape(-1),
            softcap=self.config.softcap,
            vocab_size=self.config.vocab_size,
            reduction=reduction,
        )

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """Normed output of the last block, (B, T, C) in ``compute_dtype``."""
        config = self.config
        batch, num_new = ids.shape
        cos, sin = self._rope(num_new, cache)
        x = rms_norm(self.transformer.wte(ids, self.compute_dtype), config.norm_eps)
        if config.use_smear:
            x = self._smear(x, cache)
        x0, x_mid = x, None
        for layer, block in enumerate(self.transformer.h):
            if config.use_residual_lambdas:
                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
            ve = None
            if config.has_value_embedding(layer):
                ve = self.value_embeds[str(layer)](ids, self.compute_dtype)
                ve = ve.view(batch, num_new, config.n_kv_head, config.head_dim)
            x = block(x, ve, cos, sin, cache)
            if config.use_backout and layer == config.backout_layer:
                x_mid = x
        if x_mid is not None:
            x = x - self.backout_lambda[0] * x_mid
        if cache is not None:
            cache.lengths += num_new
        return rms_norm(x, config.norm_eps)

    def _smear(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """Mix some of the previous token's embedding into each; the first has none before it."""
        first = torch.zeros_like(x[:, :1]) if cache is None else cache.previous[:, None].to(x.dtype)
        previous = torch.cat([first, x[:, :-1]], dim=1)
        if cache is not None:
            cache.previous.copy_(x[:, -1])
        gate = torch.sigmoid(self.smear_gate(x[..., : self.config.smear_gate_channels]).float())
        return x + (self.smear_lambda * gate).to(x.dtype) * previous

    def _rope(self, num_new: int, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        """Tables of the new positions: (T, D / 2), or (B, T, D / 2) for rows of a cache."""
        limit = self.config.seq_len
        if cache is None:
            if num_new > limit:
                raise ValueError(f"gpt: at most seq_len {limit} tokens, got {num_new}")
            return self.cos[:num_new], self.sin[:num_new]
        longest = int(cache.lengths.max())
        if longest + num_new > cache.capacity:
            raise ValueError(
                f"gpt: cache holds {cache.capacity} tokens a row, got {longest} + {num_new} new"
            )
        positions = cache.lengths[:, None] + torch.arange(num_new, device=self.cos.device)
        return self.cos[positions], self.sin[positions]


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension; no weight."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


def rope_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of pos * base^(-2j / D), each (seq_len, D / 2) fp32, computed in fp64."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angle = torch.outer(
        torch.arange(config.seq_len, dtype=torch.float64), config.rope_base**-exponent
    )
    return angle.cos().float(), angle.sin().float()
