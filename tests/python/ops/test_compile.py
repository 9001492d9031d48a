"""torch.compile sees an op as one node: the model is one graph, forward, loss and backward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanochat import ops
from nanochat.model import GPT, GPTConfig

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_and_batch(arch: str) -> tuple[GPT, Tensor, Tensor]:
    config = GPTConfig(
        n_layer=2, n_head=2, n_kv_head=1, n_embd=64, vocab_size=100, seq_len=48, arch=arch
    )  # fmt: skip
    model = GPT(config)
    model.init_weights(seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    ids = torch.randint(0, 100, (2, 48))
    return model, ids, ids.roll(-1, dims=1)


def loss_and_gradients(model: GPT, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    torch.autograd.backward(loss)
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_a_training_step_of_the_model_is_one_graph(arch: str) -> None:
    model, ids, targets = model_and_batch(arch)
    eager = loss_and_gradients(model, model.loss(ids, targets))
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    again = loss_and_gradients(model, compiled(ids, targets))
    assert len(eager) > 10
    for a, b in zip(again, eager, strict=True):
        torch.testing.assert_close(a, b)


def attention_inputs(dtype: torch.dtype) -> list[Tensor]:
    B, T, H, Hkv, D = 2, 40, 4, 2, 32
    shapes = [(B, T, H, D), (B, T, Hkv, D), (B, T, Hkv, D)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("compiles", [False, True])
def test_attention_and_loss_under_checkpointing(
    dtype: torch.dtype, window: int | None, compiles: bool
) -> None:
    q, k, v = attention_inputs(dtype)
    angle = 6 * torch.rand(40, 16)
    weight = torch.randn(50, 32).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (2 * 40 * 4,))
    leaves = (q, k, v, weight)

    def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.attention(q, k, v, angle.cos(), angle.sin(), window=window)

    def head(x: Tensor, weight: Tensor) -> Tensor:
        return ops.cross_entropy(x.reshape(-1, 32), weight, targets)

    def recomputed(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        x = checkpoint(block, q, k, v, use_reentrant=False)
        loss: Tensor = checkpoint(head, x, weight, use_reentrant=False)
        return loss

    expected = torch.autograd.grad(head(block(q, k, v), weight), leaves)
    if compiles:
        recomputed = torch.compile(recomputed, backend="aot_eager", fullgraph=True)
    gradients = torch.autograd.grad(recomputed(*leaves), leaves)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_evaluation_compiles_without_gradients() -> None:
    model, ids, targets = model_and_batch("modern")
    with torch.no_grad():
        compiled = torch.compile(model.nats, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(ids, targets), model.nats(ids, targets))
