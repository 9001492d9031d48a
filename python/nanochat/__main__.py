"""The command line: ``nanochat <command> [options]``, and the same commands as ``scripts/*.py``.

A command is a frozen dataclass of options (shown by ``--help``) and one function that takes it.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

from nanochat.common.errors import UserError, run_main

# command: (module, dataclass of options, function, what it does)
COMMANDS = {
    "speedrun": ("nanochat.speedrun", "SpeedrunConfig", "speedrun", "the whole journey"),
    "tok-train": ("nanochat.train.tok", "TokTrainConfig", "tok_train", "train a tokenizer"),
    "tok-eval": (
        "nanochat.evals.tok",
        "TokEvalConfig",
        "tok_eval",
        "bytes per token of a tokenizer",
    ),
    "base-train": ("nanochat.train.base", "BaseTrainConfig", "base_train", "pretrain a model"),
    "base-eval": (
        "nanochat.train.base_eval",
        "BaseEvalConfig",
        "base_eval",
        "evaluate it: bpb, samples",
    ),
    "chat-sft": ("nanochat.train.sft", "ChatSFTConfig", "chat_sft", "finetune it on conversations"),
    "chat-rl": (
        "nanochat.train.rl",
        "ChatRLConfig",
        "chat_rl",
        "let it learn from rewards of its answers",
    ),
    "chat-eval": ("nanochat.train.chat_eval", "ChatEvalConfig", "chat_eval", "run the chat tasks"),
    "chat-web": ("nanochat.serve", "ChatWebConfig", "run_chat_web", "serve it over websockets"),
    "chat-cli": ("nanochat.chat", "ChatCliConfig", "run_chat_cli", "chat in the terminal"),
    "report": ("nanochat.report", "ReportConfig", "report", "write the report card again"),
    "info": ("nanochat.info", "InfoConfig", "info", "which native path serves which operation"),
}


def command(name: str, argv: list[str]) -> None:
    """Parse ``argv`` for one command and run it."""
    import tyro

    module_name, config_name, function_name, _ = COMMANDS[name]
    module = import_module(module_name)
    config = tyro.cli(getattr(module, config_name), args=argv, prog=f"nanochat {name}")
    getattr(module, function_name)(config)


def set_environment() -> None:
    """Settings that libraries read once, when they load; what the user set stays.

    GNU OpenMP spins at barriers for milliseconds by default, which costs nothing on an idle machine
    and nearly everything on a shared one: with another busy process on 2 cores, training ran at 500
    tokens/s; with short spins at 2,300, and within 5 % of the default when alone.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def script(name: str) -> None:
    """Body of ``scripts/<name>.py``: the same command under its file's name."""
    set_environment()
    run_main(lambda argv: command(name, argv))


def main() -> None:
    """Entry point of the console command ``nanochat``."""
    set_environment()
    run_main(_dispatch)


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: nanochat <command> [options]      nanochat <command> --help\n")
        for name, (*_, text) in COMMANDS.items():
            print(f"  {name:<12} {text}")
        print(f"  {'bench':<12} time a native kernel against its peers: {', '.join(benchmarks())}")
        return
    name = argv[0].replace("_", "-")
    if name == "bench":
        _bench(argv[1:])
    elif name in COMMANDS:
        command(name, argv[1:])
    else:
        raise UserError(f"nanochat: no command {argv[0]}; known are {', '.join(COMMANDS)}, bench")


def _bench(argv: list[str]) -> None:
    name = argv[0].replace("-", "_") if argv else ""
    if name not in benchmarks():
        raise UserError(f"bench: needs one of {', '.join(benchmarks())}, got {name or 'nothing'}")
    sys.argv = [str(benchmarks()[name]), *argv[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def benchmarks() -> dict[str, Path]:
    """Name to file of every benchmark; ``scripts/bench`` is installed into the package."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "bench").glob("*.py"))}


if __name__ == "__main__":
    main()
