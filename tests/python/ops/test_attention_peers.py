"""Other people's attention is called with the right arguments and gives what ours means."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from nanochat.ops import attention_peers, reference

CPU = torch.device("cpu")


def tensors(T: int, H: int = 4, Hkv: int = 2, D: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, T, H, D), torch.randn(2, T, Hkv, D), torch.randn(2, T, Hkv, D)


@pytest.mark.parametrize("T", [1, 127, 128, 129, 300, 640, 1111])
@pytest.mark.parametrize("window", [0, 1, 127, 128, 129, 254, 255, 256, 500])
def test_block_mask_is_that_of_the_whole_mask(T: int, window: int) -> None:
    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j <= window)

    expected = create_block_mask(visible, None, None, T, T, device="cpu")
    ours = attention_peers.block_mask(T, window, CPU)
    assert ours.shape == expected.shape and ours.seq_lengths == expected.seq_lengths
    # Whole tiles need no mask, so one that is listed as whole is whole; where a sequence ends
    # inside of a tile, either list is right.
    assert torch.equal(ours.to_dense(), expected.to_dense())
    if T % 128 == 0:
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(ours, name), getattr(expected, name)), name


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [0, 3, 200])
def test_flex_attention_sees_its_window(window: int) -> None:
    q, k, v = tensors(300)
    expected = reference.causal_attention(q, k, v, window=window)
    torch.testing.assert_close(attention_peers.flex(q, k, v, window), expected)


def test_flex_attention_compiles_into_one_graph() -> None:
    q, k, v = tensors(150)
    torch.compiler.reset()
    compiled = torch.compile(attention_peers.flex, backend="eager", fullgraph=True)
    expected = reference.causal_attention(q, k, v, window=9)
    torch.testing.assert_close(compiled(q, k, v, 9), expected)


def test_torch_takes_flex_attention_for_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        calls.append(window)
        return q

    monkeypatch.setattr(attention_peers, "flex", flex)
    q, k, v = tensors(20)
    for has_triton in (True, False):
        monkeypatch.setattr(attention_peers, "_HAS_TRITON", has_triton)
        for window in (None, 19, 100):
            out = attention_peers.attend("torch", q, k, v, window=window)
            torch.testing.assert_close(out, reference.causal_attention(q, k, v, window=None))
    assert calls == []
    out = attention_peers.attend("torch", q, k, v, window=5)  # without Triton: the explicit mask
    torch.testing.assert_close(out, reference.causal_attention(q, k, v, window=5))
    monkeypatch.setattr(attention_peers, "_HAS_TRITON", True)
    assert attention_peers.attend("torch", q, k, v, window=18) is q
    assert calls == [18]


def fake_flash(name: str, calls: list[tuple[str, dict[str, Any]]], *, pair: bool) -> ModuleType:
    """A package with flash_attn_func: i sees j if i - left <= j <= i + right, -1 for no bound."""

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert causal and softmax_scale is None and window_size[1] == min(window_size[0], 0)
        calls.append((name, {"window_size": window_size}))
        window = None if window_size[0] < 0 else window_size[0]
        out = reference.causal_attention(q, k, v, window=window)
        return (out, out[..., 0]) if pair else out

    module = ModuleType(name)
    vars(module)["flash_attn_func"] = flash_attn_func
    return module


def test_flash_attn_gets_its_window_and_the_version_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    for name, pair in (("flash_attn", False), ("flash_attn_interface", True)):
        monkeypatch.setitem(sys.modules, name, fake_flash(name, calls, pair=pair))
    q, k, v = tensors(20)
    for has_3, capability, name in (
        (False, (9, 0), "flash_attn"),
        (True, (9, 0), "flash_attn_interface"),
        (True, (8, 0), "flash_attn"),
    ):
        monkeypatch.setattr(attention_peers, "_HAS_FLASH_3", has_3)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        for window, sides in ((None, (-1, -1)), (19, (-1, -1)), (5, (5, 0)), (0, (0, 0))):
            out = attention_peers.attend("flash_attn", q, k, v, window=window)
            torch.testing.assert_close(out, reference.causal_attention(q, k, v, window=window))
            assert calls[-1] == (name, {"window_size": sides})


def test_flash_attn_compiles_into_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", fake_flash("flash_attn", [], pair=False))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *x: attention_peers.attend("flash_attn", *x, window=3),
        backend="eager",
        fullgraph=True,
    )
    q, k, v = tensors(20)
    torch.testing.assert_close(compiled(q, k, v), reference.causal_attention(q, k, v, window=3))
