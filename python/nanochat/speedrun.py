"""The whole journey: tokenizer, base model, chat model, evaluations, report card.

The stages are the commands that ``--plan`` prints, run one after the other. Each is complete or
continues where it was killed, so the speedrun itself remembers nothing: start it again, and what is
done says so in a second. On one device the stages run in this process; on several, under torchrun.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from nanochat.__main__ import command
from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.figures import duration
from nanochat.common.hardware import probe
from nanochat.common.paths import file_lock
from nanochat.train.gpus import gpu_named
from nanochat.train.inputs import TINYWORLD
from nanochat.train.plan import Plan, format_plan, make_plan
from nanochat.train.presets import Preset, default_preset, preset_named
from nanochat.train.run import run_dir


@dataclass(frozen=True, kw_only=True)
class SpeedrunConfig:
    """Walk the whole journey on the hardware that is found, or print what it would take."""

    preset: str | None = None
    """cpu, gpu1, d12, d20, d24, d26 or d32; by the hardware if not given."""
    data: str | None = None
    """Text for pretraining: a folder, glob or file of .txt, .jsonl(.zst|.gz), .parquet."""
    sft_data: tuple[str, ...] = ()
    """What to finetune on, as chat-sft --data takes it; tinyworld if not given."""
    chat_tasks: str | None = None
    """What to ask the chat model, as chat-eval --tasks: tinyworld, chatcore or single tasks."""
    eval_data: Path | None = None
    """Folder of evaluation sets; NANOCHAT_HOME/eval, and fetched, if not given."""
    offline: bool = False
    """Take tinyworld, which needs no network, whatever the preset says."""
    run: str | None = None
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>; by preset and data if not given."""
    num_iterations: int | None = None
    """Pretraining steps instead of the preset's."""
    sft_iterations: int | None = None
    """Finetuning steps instead of the preset's."""
    eval_examples: int | None = None
    """Examples of each task instead of the preset's."""
    hours: float = 4.0
    """Budget of preset gpu1, which picks the depth that fits."""
    plan: bool = False
    """Print parameters, tokens, FLOPs, memory, hours, dollars and commands; run nothing."""
    gpu: str | None = None
    """Plan for this GPU (H100, 4090, ...) instead of the ones here."""
    num_gpus: int | None = None
    """Number of GPUs to use or to plan for."""
    dollars_per_hour: float | None = None
    """Price of the machine; $3 per GPU if not given, $0 for a CPU."""


def speedrun(config: SpeedrunConfig) -> None:
    """Run the journey of ``config``; ends with the report card and how to talk to the model."""
    plan, run = _plan(config)
    if config.plan:
        Console().print(format_plan(plan))
        return
    if plan.preset.data == "climbmix":
        raise UserError(
            "speedrun: ClimbMix is not fetched yet; give --data DIR with .parquet or .jsonl files, "
            "or --offline for tinyworld"
        )
    folder = run_dir(run, None)
    start = time.monotonic()
    busy = f"speedrun: another one is at work in {folder}; wait for it, or give another --run"
    with file_lock(folder / ".speedrun.lock", busy):
        say(f"speedrun: {plan.preset.name} in {folder}")
        for argv in plan.commands:
            _run_stage(argv)
        say(f"speedrun: finished in {duration(time.monotonic() - start)}")
        say(f"\nnow talk to it:  nanochat chat-cli --checkpoint {shlex.quote(str(folder / 'sft'))}")
        say(f"on a page:       nanochat chat-web --checkpoint {shlex.quote(str(folder / 'sft'))}")


def _plan(config: SpeedrunConfig) -> tuple[Plan, str]:
    hardware = probe()
    num_gpus = config.num_gpus
    if num_gpus is None:
        num_gpus = 1 if config.gpu else len(hardware.gpus)
    if not config.plan and num_gpus > len(hardware.gpus):
        raise UserError(
            f"speedrun: --num-gpus {num_gpus} but {len(hardware.gpus)} are here; --plan only prints"
        )
    preset = preset_named(config.preset) if config.preset else default_preset(num_gpus)
    name = config.gpu or (hardware.gpus[0] if hardware.gpus else None)
    if preset.name != "cpu" and name is None:
        if not config.plan:
            raise UserError(f"speedrun: preset {preset.name} needs a GPU, none is visible")
        name, num_gpus = "H100", config.num_gpus or 8
    preset = _with_changes(preset, config)
    run = config.run or preset.name + (f"-{Path(config.data).stem}" if config.data else "")
    plan = make_plan(
        preset,
        gpu=None if preset.name == "cpu" or name is None else gpu_named(name),
        num_gpus=max(1, num_gpus),
        num_cores=hardware.num_cores,
        hours=config.hours,
        dollars_per_hour=config.dollars_per_hour,
        run=run,
    )
    return plan, run


def _with_changes(preset: Preset, config: SpeedrunConfig) -> Preset:
    if config.offline and config.data:
        raise UserError("speedrun: give --data or --offline, not both")
    if config.data is not None:
        preset = replace(preset, data=config.data)
    if config.offline:
        preset = replace(preset, data=TINYWORLD)
    if config.sft_data:
        preset = replace(preset, sft_data=config.sft_data)
    if config.eval_data is not None:
        preset = replace(preset, eval_data=str(config.eval_data))
    given = {
        name: getattr(config, name)
        for name in ("num_iterations", "sft_iterations", "eval_examples", "chat_tasks")
        if getattr(config, name) is not None
    }
    return replace(preset, **given)


def _run_stage(argv: tuple[str, ...]) -> None:
    """One line of the plan: in this process, or as torchrun's."""
    program, script, *options = argv
    if program == "python":
        sys.argv = [script, *options]  # what the record of the stage gives as its command
        command(Path(script).stem.replace("_", "-"), options)
        return
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", script, *options], check=False
    )
    if result.returncode:
        raise UserError(f"speedrun: {shlex.join(argv)} ended with status {result.returncode}")
