"""The engine's CUDA model: checked against fp32, then timed against PyTorch's way of decoding.

    python scripts/bench/engine_cuda.py [--quick]

Checks: logits of both architectures err at most twice as much as PyTorch's model in bf16 does
(from fp32 arithmetic on the same rounded weights); their bits are those of any cutting into chunks
and of 20 repeats; greedy tokens of a batch in steps recorded as graphs are the choices of those
logits. Times: decoding steps at --batch prompts, a modern model of --depth, ours and the engine
with PyTorch's model on the device. Exits 1 if a check fails, 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from nanochat.common.errors import run_main
from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.model import GPT, GPTConfig
from nanochat.testing import bench
from nanochat.tokenizer import Tokenizer

T = 320
REPEATS = 20
LEAD = 0.1  # of the likeliest token, from which on it must be chosen
SHAPES = [("classic", 2, 2, 128), ("modern", 4, 2, 64), ("modern", 6, 6, 128)]  # H, Hkv, D


def random_model(config: GPTConfig) -> GPT:
    """Every part awake; weights that bf16 can hold, so that rounding them is no error."""
    model = GPT(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            std = 0.7 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.3
            drawn = std * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.bfloat16().float())
    return model.eval()


def on_cuda(model: GPT, tokenizer: Tokenizer, slots: int = 8, chunk: int = 512) -> Engine:
    options = NativeOptions(cuda_device=0, chunk=chunk, chunk_beside=chunk)
    return Engine(model, tokenizer, slots=slots, backend="native", options=options)


def check(arch: str, H: int, Hkv: int, D: int, tokenizer: Tokenizer) -> dict[str, object]:
    model = random_model(
        GPTConfig(
            arch=arch,  # type: ignore[arg-type]
            n_layer=4, n_head=H, n_kv_head=Hkv, n_embd=H * D,
            vocab_size=tokenizer.vocab_size, seq_len=T,
        )
    )  # fmt: skip
    ids = torch.randint(0, 256, (1, T - 20), generator=torch.Generator().manual_seed(1))
    half = GPT(model.config, compute_dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    with torch.no_grad():
        oracle, theirs = model(ids)[0].numpy(), half(ids)[0].numpy()
    prompt = ids[0].tolist()
    bits = set()
    for chunk in (512, 64, 7, 1):
        with on_cuda(model, tokenizer, chunk=chunk) as engine:
            for _ in range(REPEATS if chunk == 512 else 1):
                ours = engine.logits(prompt)
                bits.add(ours.tobytes())
    error, allowed = np.abs(ours - oracle).max(), 2 * np.abs(theirs - oracle).max()
    failure = "" if error <= allowed else f"error {error:.4f} above {allowed:.4f}"
    if len(bits) > 1:
        failure = failure or f"{len(bits)} different bits"
    with on_cuda(model, tokenizer) as engine:
        prompts = [prompt[: 40 + 30 * i] for i in range(8)]
        for answer, start in zip(
            engine.generate(prompts, Sampling(temperature=0.0, max_tokens=16)), prompts, strict=True
        ):
            logits = engine.logits([*start, *answer.ids])[len(start) - 1 : -1]
            best = np.sort(logits)[:, -2:]
            is_clear = (best[:, 1] - best[:, 0] > LEAD) & np.array(answer.mask, bool)
            if (logits.argmax(1) != answer.ids)[is_clear].any():
                failure = failure or "tokens of a batch are not those of the logits"
    return {"error": float(error), "allowed": float(allowed), "failure": failure}


def tokens_per_second(engine: Engine, batch: int, num_tokens: int) -> float:
    """Of decoding, from two lengths, so that the prompts drop out."""
    prompts = [[1 + i, *range(2, 66)] for i in range(batch)]
    seconds = []
    for length in (1, 1, num_tokens + 1):  # the first warms up
        started = time.perf_counter()
        engine.generate(prompts, Sampling(temperature=0.0, max_tokens=length))
        seconds.append(time.perf_counter() - started)
    return batch * num_tokens / (seconds[2] - seconds[1])


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=128, help="decoding steps of a measurement")
    parser.add_argument("--quick", action="store_true", help="checks only")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("engine_cuda: no CUDA device", file=sys.stderr)
        raise SystemExit(2)
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    checks = {str(shape): check(*shape, tokenizer) for shape in SHAPES}
    print(
        bench.table(
            ("shape", "error", "allowed", "verdict"),
            [[k, v["error"], v["allowed"], v["failure"] or "ok"] for k, v in checks.items()],
        )
    )
    rows = []
    if not args.quick and not any(v["failure"] for v in checks.values()):
        # The head is as wide as a real one; its tokens are bytes all the same.
        config = GPTConfig.from_depth(args.depth, vocab_size=32_768, seq_len=2048)
        model = random_model(config)
        for batch in args.batch:
            with on_cuda(model, tokenizer, slots=batch) as engine:
                ours = tokens_per_second(engine, batch, args.tokens)
            peer = GPT(config, compute_dtype=torch.bfloat16)
            peer.load_state_dict(model.state_dict())
            with Engine(
                peer.cuda(), tokenizer, slots=batch, backend="torch", is_exact=False
            ) as engine:
                theirs = tokens_per_second(engine, batch, args.tokens)
            rows.append([batch, ours, theirs, ours / theirs])
        print(bench.table(("batch", "ours tok/s", "torch tok/s", "ratio"), rows))
    print(json.dumps({"benchmark": "engine_cuda", "checks": checks, "decode": rows}))
    raise SystemExit(1 if any(v["failure"] for v in checks.values()) else 0)


if __name__ == "__main__":
    run_main(main)
