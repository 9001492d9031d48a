"""GPTConfig: presets, the published sizes, round trip, and one clear line per mistake."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from nanochat.model.config import GPTConfig

# depth, width, parameters, FLOPs per token at vocab 32768, T = 2048.
SIZES = [
    (4, 256, 36_700_242, 8.02e7),
    (6, 384, 73_531_538, 1.675e8),
    (8, 512, 125_829_354, 2.957e8),
    (12, 768, 286_261_730, 7.597e8),
    (16, 1024, 536_871_738, 1.586e9),
    (20, 1280, 896_533_746, 2.886e9),
    (22, 1408, 1_123_157_490, 3.763e9),
    (24, 1536, 1_384_122_122, 4.775e9),
    (26, 1664, 1_681_786_938, 5.991e9),
    (32, 2048, 2_818_575_450, 1.077e10),
]


def make(depth: int = 4, **changes: Any) -> GPTConfig:
    config = GPTConfig.from_depth(depth, vocab_size=32768, seq_len=2048)
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(("depth", "width", "parameters", "flops"), SIZES)
def test_published_sizes(depth: int, width: int, parameters: int, flops: float) -> None:
    config = make(depth)
    assert config.n_embd == width
    assert config.num_parameters() == parameters
    # The published table is rounded to four digits, d16 upwards from 1.58545e9.
    assert config.flops_per_token() == pytest.approx(flops, rel=5e-4)


def test_block_matrices() -> None:
    assert make(12).num_block_parameters() == 84_935_088
    assert make(24).num_block_parameters() == 679_478_976
    assert make(24).num_scaling_params() == 679_478_976 + 32768 * 1536


def test_flops_of_the_record_runs() -> None:
    assert f"{make(12).flops_per_token():.3e}" == "7.597e+08"
    assert f"{make(24).flops_per_token():.3e}" == "4.775e+09"


def test_classic_is_the_october_release() -> None:
    config = GPTConfig.from_depth(20, arch="classic", vocab_size=65536, seq_len=2048)
    assert config.num_parameters() == 560_988_160
    assert f"{config.flops_per_token():.4e}" == "3.4918e+09"
    assert (config.rope_base, config.qk_scale) == (10_000, 1)
    assert config.windows() == (None,) * 20
    assert not any(config.has_value_embedding(layer) for layer in range(20))
    assert not (config.use_smear or config.use_backout or config.use_residual_lambdas)


def test_modern_constants() -> None:
    config = make(12)
    assert config.norm_eps == 2**-23
    assert (config.rope_base, config.qk_scale, config.softcap) == (100_000, 1.2, 15)
    assert (config.ve_gate_channels, config.ve_gate_scale) == (12, 3)
    assert config.smear_gate_channels == 24
    assert config.backout_layer == 6


def test_windows_repeat_and_the_last_layer_sees_all() -> None:
    assert make(6).windows() == (512, 512, 512, None, 512, None)
    assert make(1).windows() == (None,)


@pytest.mark.parametrize(
    ("seq_len", "window"), [(1, 128), (256, 128), (512, 128), (513, 256), (2048, 512), (3072, 768)]
)
def test_short_window_is_a_quarter_in_whole_tiles(seq_len: int, window: int) -> None:
    config = GPTConfig.from_depth(4, vocab_size=512, seq_len=seq_len)
    assert config.windows()[0] == window


def test_longer_context_later_keeps_the_trained_window() -> None:
    assert make(4, seq_len=8192).short_window == 512


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_value_embeddings_alternate_and_include_the_last_layer(depth: int) -> None:
    config = make(depth)
    layers = [layer for layer in range(depth) if config.has_value_embedding(layer)]
    assert layers == [layer for layer in range(depth) if layer % 2 == (depth - 1) % 2]


def test_head_dim_of_small_models() -> None:
    config = GPTConfig.from_depth(4, vocab_size=4096, seq_len=256, head_dim=64)
    assert (config.n_embd, config.n_head, config.n_kv_head) == (256, 4, 4)
    assert GPTConfig.from_depth(3, vocab_size=4096, seq_len=256).n_embd == 256  # rounded up


def test_grouped_heads_shrink_keys_values_and_tables() -> None:
    full, grouped = make(4), make(4, n_kv_head=1)
    assert full.n_kv_head == 2
    saved_matrices = 4 * 2 * 256 * 128
    saved_tables_and_gates = 2 * (32768 * 128 + 12)
    assert full.num_parameters() - grouped.num_parameters() == (
        saved_matrices + saved_tables_and_gates
    )


@pytest.mark.parametrize(("vocab", "rows"), [(1, 64), (64, 64), (65, 128), (4105, 4160)])
def test_vocabulary_is_padded(vocab: int, rows: int) -> None:
    assert make(4, vocab_size=vocab).padded_vocab_size == rows


@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_json_round_trip(arch: Any) -> None:
    config = GPTConfig.from_depth(5, arch=arch, vocab_size=777, seq_len=300, head_dim=32)
    changed = dataclasses.replace(config, softcap=20.0, window_pattern="SL", short_window=7)
    assert GPTConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_saved_constants_win_over_the_preset() -> None:
    values = make(4).to_dict() | {"rope_base": 10_000.0, "use_smear": False}
    config = GPTConfig.from_dict(values)
    assert (config.rope_base, config.use_smear) == (10_000, False)


def test_from_dict_names_unknown_and_missing_keys() -> None:
    values = make(4).to_dict()
    with pytest.raises(ValueError, match=r"unknown keys.*got \['dropout'\]"):
        GPTConfig.from_dict(values | {"dropout": 0.1})
    del values["rope_base"]
    with pytest.raises(ValueError, match=r"missing, got \['rope_base'\]"):
        GPTConfig.from_dict(values)
    with pytest.raises(ValueError, match=r"missing, got \['rope_base'\]"):
        GPTConfig.from_dict(values | {"rope_base": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "future"}, "arch must be one of .* got 'future'"),
        ({"n_layer": 0}, "n_layer must be a positive integer, got 0"),
        ({"n_layer": True}, "n_layer must be a positive integer, got True"),
        ({"n_embd": "256"}, "n_embd must be a positive integer, got '256'"),
        ({"n_embd": 384}, r"n_embd must be n_head \* head_dim = 2 \* 128, got 384"),
        ({"n_head": 256, "n_kv_head": 1, "head_dim": 1}, "head_dim must be even"),
        ({"n_kv_head": 3}, "n_kv_head must divide n_head = 2, got 3"),
        ({"window_pattern": "SX"}, "window_pattern must be letters S and L, got 'SX'"),
        ({"window_pattern": ""}, "window_pattern must be letters"),
        ({"short_window": 0}, "short_window must be positive, got 0"),
        ({"softcap": float("nan")}, "softcap must be positive and finite, got nan"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
        ({"use_smear": 1}, "use_smear must be of type bool, got 1"),
        ({"mlp_ratio": 2.5}, "mlp_ratio must be of type int, got 2.5"),
        ({"value_embedding_period": -1}, "value_embedding_period must be positive, or 0"),
        ({"ve_gate_channels": 257}, "ve_gate_channels must be 1 to n_embd = 256, got 257"),
        ({"smear_gate_channels": 0}, "smear_gate_channels must be 1 to n_embd"),
        ({"backout_layer": 4}, "backout_layer must be 0 to n_layer - 1 = 3, got 4"),
    ],
)
def test_mistakes_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: {message}") as caught:
        make(4, **changes)
    assert "\n" not in str(caught.value)


def test_from_depth_rejects_zero() -> None:
    with pytest.raises(ValueError, match="depth and head_dim must be positive"):
        GPTConfig.from_depth(0, vocab_size=512, seq_len=128)
