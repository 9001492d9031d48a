"""What a journey will take, without running it: sizes, memory, hours, dollars, commands.

Everything is arithmetic on the preset and on :mod:`nanochat.train.gpus`; nothing is built or timed.

    memory of one device, bytes
      weights       4 P                              fp32, on every device
      gradients     4 P
      optimizer     (4 P_muon + 8 P_adam) / N        momentum; two moments; sharded over N devices
      activations   rows T (56 L d)                  what autograd keeps of a layer in bf16
      bf16 weights  2 P_muon                         autograd keeps the casts too
      logits        rows T (16 V)                    product, tanh, log-softmax, gradients
    56 and 2 are measured with saved_tensors_hooks on the eager model; compiled code keeps half.

    seconds = FLOPs / (N peak MFU)
      pretraining   FLOPs/token (PaLM rule) x tokens
      finetuning    the same
      validation    forward is a third of training
      evaluation    held-out text and tasks, as long as training on 20M tokens (0.3M on a CPU,
                    whose world is small)
      tokenizer     2B characters in 75 s
    A CPU sustains 80 GFLOP/s per core, measured at d4 in bf16 on AVX-512 (Zen 5).
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nanochat.common.errors import UserError
from nanochat.common.figures import count, dollars, duration, percent
from nanochat.model.config import GPTConfig
from nanochat.optim import scaling
from nanochat.train.gpus import Gpu
from nanochat.train.inputs import TINYWORLD
from nanochat.train.presets import Preset

ACTIVATION_BYTES = 56  # per token, layer and unit of width
LOGIT_BYTES = 16  # per token and id
MEMORY_SHARE = 0.9  # of a device that may be planned: allocator, library workspaces, fragments
MAX_DEVICE_ROWS = 32
COMMAND_WIDTH = 78  # columns of a printed command
CPU_FLOPS_PER_CORE = 130e9
EVAL_TOKENS_GPU, EVAL_TOKENS_CPU = 20e6, 0.3e6
TOKENIZER_CHARS_PER_SECOND = 2e9 / 75
DOLLARS_PER_GPU_HOUR = 3.0  # $24 for 8 x H100


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One journey on one machine. ``seconds`` and ``commands`` are by stage, in order."""

    preset: Preset
    config: GPTConfig
    gpu: Gpu | None  # None is the CPU
    num_devices: int  # GPUs; 1 for the CPU
    num_cores: int
    total_batch_size: int
    device_batch_size: int
    num_iterations: int
    sft_iterations: int
    memory: Memory
    seconds: dict[str, float]
    dollars_per_hour: float
    commands: tuple[tuple[str, ...], ...]

    @property
    def num_tokens(self) -> int:
        return self.num_iterations * self.total_batch_size

    @property
    def total_flops(self) -> float:
        """Of pretraining."""
        return float(self.config.flops_per_token()) * self.num_tokens

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600

    @property
    def dollars(self) -> float:
        return self.hours * self.dollars_per_hour


def make_plan(
    preset: Preset,
    *,
    gpu: Gpu | None = None,
    num_gpus: int = 1,
    num_cores: int = 1,
    hours: float = 4.0,
    dollars_per_hour: float | None = None,
    run: str | None = None,
) -> Plan:
    """Plan ``preset`` on ``num_gpus`` of ``gpu``, or on the CPU when ``gpu`` is None.

    Args:
        hours: Budget of the whole journey; decides the depth of a preset that has none.
        dollars_per_hour: Of the whole machine. None is $3 per GPU, and $0 for a CPU.
        run: Value of ``--run`` in the commands; the preset's name if None.
    Raises: UserError if the machine cannot hold the model, or no depth fits the hours.
    """
    if gpu is not None and num_gpus < 1:
        raise UserError(f"plan: --num-gpus must be at least 1, got {num_gpus}")
    num_devices = num_gpus if gpu is not None else 1
    if dollars_per_hour is None:
        dollars_per_hour = DOLLARS_PER_GPU_HOUR * num_devices if gpu is not None else 0.0

    def at(depth: int) -> Plan:
        return _plan_at(preset, depth, gpu, num_devices, num_cores, dollars_per_hour, run)

    if preset.depth is not None:
        return at(preset.depth)
    best: Plan | None = None
    for depth in range(4, 42, 2):  # odd depths pad their width to that of the next even one
        try:
            candidate = at(depth)
        except UserError:  # does not fit the memory, nor does anything deeper
            break
        if candidate.hours > hours:
            break
        best = candidate
    if best is None:
        raise UserError(f"plan: not even 4 layers fit {hours:g} hours on this GPU; raise --hours")
    return best


def _plan_at(
    preset: Preset,
    depth: int,
    gpu: Gpu | None,
    num_devices: int,
    num_cores: int,
    dollars_per_hour: float,
    run: str | None,
) -> Plan:
    config = GPTConfig.from_depth(
        depth, vocab_size=preset.vocab_size, seq_len=preset.seq_len, head_dim=preset.head_dim
    )
    batch, steps = _length(preset, config)
    rows = _device_rows(preset, config, batch, gpu, num_devices)
    sft_steps = preset.sft_iterations or max(1, steps // 10)
    rate = flops_per_second(gpu, num_devices=num_devices, num_cores=num_cores, depth=depth)
    flops = config.flops_per_token()
    num_validations = sum(math.ceil(n / preset.eval_every) for n in (steps, sft_steps))
    eval_tokens = EVAL_TOKENS_CPU if gpu is None else EVAL_TOKENS_GPU
    return Plan(
        preset=preset,
        config=config,
        gpu=gpu,
        num_devices=num_devices,
        num_cores=num_cores,
        total_batch_size=batch,
        device_batch_size=rows,
        num_iterations=steps,
        sft_iterations=sft_steps,
        memory=memory(config, rows=rows, num_devices=num_devices),
        seconds={
            "tok_train": preset.tokenizer_chars / TOKENIZER_CHARS_PER_SECOND,
            "base_train": flops * batch * steps / rate,
            "chat_sft": flops * batch * sft_steps / rate,
            "validation": flops * preset.eval_tokens * num_validations / 3 / rate,
            "evaluation": flops * eval_tokens / rate,
        },
        dollars_per_hour=dollars_per_hour,
        commands=_commands(
            preset,
            run=run or preset.name,
            depth=depth,
            batch=batch,
            rows=rows,
            steps=steps,
            sft_steps=sft_steps,
            num_devices=num_devices,
            dollars_per_hour=dollars_per_hour,
        ),
    )


def flops_per_second(gpu: Gpu | None, *, num_devices: int, num_cores: int, depth: int) -> float:
    """Sustained in training by the whole machine."""
    if gpu is None:
        return CPU_FLOPS_PER_CORE * num_cores
    return num_devices * gpu.peak_tflops * 1e12 * gpu.mfu(depth)


def memory(config: GPTConfig, *, rows: int, num_devices: int) -> Memory:
    """Of one device that trains ``rows`` rows at a time; the formula stands above."""
    num_all, num_muon = config.num_parameters(), config.num_block_parameters()
    tokens = rows * config.seq_len
    return Memory(
        weights=4 * num_all + 2 * num_muon,
        gradients=4 * num_all,
        optimizer=(4 * num_muon + 8 * (num_all - num_muon)) / num_devices,
        activations=tokens * ACTIVATION_BYTES * config.n_layer * config.n_embd,
        logits=tokens * LOGIT_BYTES * config.padded_vocab_size,
    )


def _length(preset: Preset, config: GPTConfig) -> tuple[int, int]:
    """Tokens per step, and steps of pretraining, as base_train will have them."""
    reference = GPTConfig.from_depth(
        scaling.REFERENCE_DEPTH,
        vocab_size=config.vocab_size,
        seq_len=config.seq_len,
        head_dim=config.head_dim,
    )
    length = scaling.plan(
        num_scaling_params=config.num_scaling_params(),
        reference_params=reference.num_scaling_params(),
        flops_per_token=config.flops_per_token(),
        num_iterations=preset.num_iterations,
        total_batch_size=preset.total_batch_size,
        param_data_ratio=preset.target_param_data_ratio,
    )
    return length.total_batch_size, length.num_steps


def _device_rows(
    preset: Preset, config: GPTConfig, batch: int, gpu: Gpu | None, num_devices: int
) -> int:
    """The largest power of two that fits the device and divides the batch of a step.

    Raises: UserError if not even one row does, or a step does not divide among the devices.
    """
    if preset.device_batch_size is not None:
        return preset.device_batch_size
    assert gpu is not None
    if batch % (config.seq_len * num_devices):
        raise UserError(
            f"plan: a step of {batch} tokens must be whole rows of {config.seq_len} on each GPU, "
            f"got --num-gpus {num_devices}; take a power of two"
        )
    capacity = MEMORY_SHARE * gpu.memory_gb * 1e9
    rows = MAX_DEVICE_ROWS
    while rows and (
        batch % (rows * config.seq_len * num_devices)
        or memory(config, rows=rows, num_devices=num_devices).total > capacity
    ):
        rows //= 2
    if not rows:
        need = memory(config, rows=1, num_devices=num_devices).total / 1e9
        raise UserError(
            f"plan: {config.n_layer} layers must fit {capacity / 1e9:.0f} GB, which is "
            f"{percent(MEMORY_SHARE)} of a {gpu.name}, got {need:.0f} GB; take a smaller preset"
        )
    return rows


def _commands(
    preset: Preset,
    *,
    run: str,
    depth: int,
    batch: int,
    rows: int,
    steps: int,
    sft_steps: int,
    num_devices: int,
    dollars_per_hour: float,
) -> tuple[tuple[str, ...], ...]:
    """One argument list per stage, in order, to be run in the root of the checkout."""
    here = ("--run", run)
    batches = ("--device-batch-size", str(rows), "--total-batch-size", str(batch))
    often = (
        *("--eval-every", str(preset.eval_every), "--eval-tokens", str(preset.eval_tokens)),
        *("--save-every", str(preset.save_every), "--resume"),
    )
    price = ("--dollars-per-hour", f"{dollars_per_hour:g}") if dollars_per_hour else ()
    rates = {"--lr-scale": preset.lr_scale, "--weight-decay": preset.weight_decay}
    tuned = (word for k, v in rates.items() if v is not None for word in (k, f"{v:g}"))
    sets = ("--eval-data", preset.eval_data) if preset.eval_data else ()
    is_tinyworld = preset.data == TINYWORLD
    one = ("python",)
    every = (
        ("torchrun", "--standalone", f"--nproc_per_node={num_devices}") if num_devices > 1 else one
    )
    return (
        (
            *(*one, "scripts/tok_train.py", *here, "--data", preset.data),
            *("--vocab-size", str(preset.vocab_size), "--max-chars", str(preset.tokenizer_chars)),
        ),
        (
            *(*every, "scripts/base_train.py", *here, "--data", preset.data),
            *("--depth", str(depth), "--head-dim", str(preset.head_dim)),
            *("--seq-len", str(preset.seq_len), *batches, "--num-iterations", str(steps)),
            *(*tuned, *often),
        ),
        (
            *(*every, "scripts/base_eval.py", *here, "--data", preset.data),
            *("--num-tokens", str(2 * preset.eval_tokens), "--device-batch-size", str(rows)),
            *(() if is_tinyworld else ("--max-per-task", str(preset.core_examples), *sets)),
        ),
        (
            *(*every, "scripts/chat_sft.py", *here, *batches),
            *("--data", *preset.sft_data, *sets),
            *("--num-iterations", str(sft_steps), "--lr-scale", f"{preset.sft_lr_scale:g}"),
            *often,
        ),
        (
            *(*every, "scripts/chat_eval.py", *here, "--tasks", preset.chat_tasks, *sets),
            *("--num-examples", str(preset.eval_examples)),
        ),
        (*one, "scripts/report.py", *here, *price),
    )


def format_plan(plan: Plan) -> RenderableType:
    """The plan for a console."""
    gpu, config, memory = plan.gpu, plan.config, plan.memory
    machine = f"{plan.num_cores} CPU cores" if gpu is None else f"{plan.num_devices} x {gpu.name}"
    steps = f"{plan.num_iterations:,} steps of {plan.total_batch_size:,} tokens"
    parts = (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("logits", memory.logits),
    )
    rows = [
        ("preset", f"{plan.preset.name}: {plan.preset.about}"),
        ("machine", machine),
        ("model", f"{config.n_layer} layers, width {config.n_embd}, context {config.seq_len}"),
        ("parameters", f"{config.num_parameters():,}"),
        ("pretraining", f"{count(plan.num_tokens)} tokens of {plan.preset.data}: {steps}"),
        ("finetuning", f"{plan.sft_iterations:,} steps"),
        ("FLOPs", f"{count(config.flops_per_token())} a token, {plan.total_flops:.2e} in all"),
        ("device batch", f"{plan.device_batch_size} rows"),
        ("memory", f"{memory.total / 1e9:.3g} GB a device"),
        ("", ", ".join(f"{name} {value / 1e9:.2g}" for name, value in parts)),
        ("time", duration(plan.hours * 3600)),
        ("", ", ".join(f"{name} {duration(value)}" for name, value in plan.seconds.items())),
        ("cost", f"{dollars(plan.dollars)} at {dollars(plan.dollars_per_hour)} an hour"),
        ("assumes", _assumption(plan)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, Text(value))
    commands = Text("\n".join(_shell(command) for command in plan.commands))
    return Group(table, Text("\ncommands", style="bold"), commands)


def _shell(command: tuple[str, ...]) -> str:
    """``command`` as lines that can be copied into a shell; an option stays with its value."""
    lines = [command[0]]
    for word, following in zip(command[1:], [*command[2:], ""], strict=True):
        width = len(f"{lines[-1]} {word} {following} \\")
        if width > COMMAND_WIDTH and word.startswith("--"):
            lines.append(f"    {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def _assumption(plan: Plan) -> str:
    if plan.gpu is None:
        return f"{CPU_FLOPS_PER_CORE / 1e9:.0f} GFLOP/s a core, measured at d4 in bf16 on AVX-512"
    share = percent(plan.gpu.mfu(plan.config.n_layer))
    origin = "published for this card" if plan.gpu.is_published else "as published for its family"
    return (
        f"{share} of {plan.gpu.peak_tflops:g} TFLOP/s (MFU, {origin} with upstream's code); "
        "downloads not counted"
    )
