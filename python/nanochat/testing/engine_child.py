"""One contender of scripts/bench/engine.py, a worker (worker.py) that keeps its model.

    python -m nanochat.testing.engine_child

Its setup are the fields of Contender, a question the arguments of Generator.generate, an answer the
fields of Generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from nanochat.common.errors import run_main
from nanochat.engine.core import NOT_FINISHED, Core
from nanochat.engine.native import PAGE_TOKENS, MappedTensors, NativeOptions, native_core
from nanochat.engine.torch_core import TorchCore
from nanochat.model import GPT, GPTConfig
from nanochat.testing import worker
from nanochat.testing.engine_timing import Generated, moments

CHUNK = 512  # tokens of a prompt in a step of ours, also beside those that decode


@dataclass(frozen=True)
class Contender:
    """Who computes, and what with.

    Attributes:
        engine: ours, torch, transformers or llama.cpp.
        weights: A safetensors file in bf16.
        num_rows: The largest batch.
    """

    engine: str
    dtype: str
    num_threads: int
    config: GPTConfig
    weights: str
    num_rows: int
    max_drafts: int = 0


class Generator(Protocol):
    def generate(
        self, prompts: Sequence[list[int]], num_tokens: int, temperature: float
    ) -> Generated:
        """Until the row that started last has ``num_tokens``; all rows go on until then."""


class CoreGenerator:
    """Ours, and the engine around PyTorch's model: through the interface that both have."""

    def __init__(self, core: Core, context: int) -> None:
        self._core = core
        self._context = context

    def generate(
        self, prompts: Sequence[list[int]], num_tokens: int, temperature: float
    ) -> Generated:
        before = self._core.statistics()
        tokens: list[list[int]] = [[] for _ in prompts]
        heard: list[list[tuple[float, int]]] = [[] for _ in prompts]
        started = time.perf_counter()
        rows = {
            self._core.submit(
                prompt, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0,
                repetition_penalty=1.0, logprobs=-1, seed=row, sample=0,
                max_tokens=self._context - len(prompt), stop_ids=[], pause_ids=[],
            ): row
            for row, prompt in enumerate(prompts)
        }  # fmt: skip
        running = set(rows)
        while running:
            events = self._core.wait(1.0)
            elapsed = time.perf_counter() - started
            for id, drawn, _, _, finish, _ in events:
                tokens[rows[id]] += drawn
                if finish != NOT_FINISHED:
                    running.remove(id)
            for row, times in zip(tokens, heard, strict=True):
                if count := len(row) - sum(count for _, count in times):
                    times.append((elapsed, count))
            if reason := self._core.failure():
                raise RuntimeError(reason)
            if min(map(len, tokens)) >= num_tokens:
                for id in running:
                    self._core.cancel(id)
        after = self._core.statistics()
        counters = {name: after[name] - before[name] for name in after}
        return Generated(tokens, [moments(times) for times in heard], counters)


class Transformers:
    """NanoChatForCausalLM with its cache, all rows in one call."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], num_tokens: int, temperature: float
    ) -> Generated:
        assert temperature == 0
        steps: list[list[int]] = []
        arrivals_s: list[float] = []
        ids, cache = torch.tensor(prompts), None
        started = time.perf_counter()
        for _ in range(num_tokens):
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
            steps.append(ids[:, 0].tolist())
            arrivals_s.append(time.perf_counter() - started)
        rows = [list(row) for row in zip(*steps, strict=True)]
        return Generated(rows, [arrivals_s] * len(prompts), {})

    @torch.inference_mode()
    def choices(self, tokens: list[int]) -> list[tuple[int, float]]:
        """After each of ``tokens``: the likeliest next, and its lead over the second in logits."""
        top = self._model(torch.tensor([tokens])).logits[0].topk(2)
        leads = top.values[:, 0] - top.values[:, 1]
        return list(zip(top.indices[:, 0].tolist(), leads.tolist(), strict=True))


def load(contender: Contender) -> Generator:
    config = contender.config
    path = Path(contender.weights)
    if contender.engine == "ours":
        options = NativeOptions(
            dtype=contender.dtype,
            threads=contender.num_threads,
            cache_tokens=(contender.num_rows + 1) * (config.seq_len + PAGE_TOKENS),  # whole pages
            chunk=CHUNK,
            chunk_beside=CHUNK,
            max_drafts=contender.max_drafts,
        )
        tensors = MappedTensors(path)
        core = native_core(config, tensors.views, slots=contender.num_rows, options=options)
        return CoreGenerator(core, config.seq_len)
    if contender.engine == "llama.cpp":
        from nanochat.testing.engine_llama import Llama, write_gguf

        gguf = write_gguf(config, load_file(path), path.with_suffix(".gguf"))
        return Llama(gguf, config, num_rows=contender.num_rows, num_threads=contender.num_threads)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[contender.dtype]
    model = _torch_model(config, path, dtype)
    if contender.engine == "torch":
        return CoreGenerator(TorchCore(model, slots=contender.num_rows), config.seq_len)
    return Transformers(_transformers_model(model).to(dtype))


def _torch_model(config: GPTConfig, path: Path, dtype: torch.dtype) -> GPT:
    model = GPT(config, compute_dtype=dtype)
    model.load_state_dict(load_file(path))
    return model.eval()


def _transformers_model(model: GPT) -> Any:  # transformers has no types
    import transformers

    from nanochat.model.hf import hf_config, hf_state_dict

    theirs = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(**hf_config(model.config))
    )
    theirs.load_state_dict(hf_state_dict(model))
    return theirs


def _serve(setup: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    config = GPTConfig.from_dict(setup.pop("config"))
    generator = load(Contender(config=config, **setup))

    return lambda question: asdict(generator.generate(**question))


if __name__ == "__main__":
    run_main(lambda argv: worker.serve(_serve))
