"""The test tree mirrors the package: a module is tested in the file of its name, or named here."""

from __future__ import annotations

from pathlib import Path

import nanochat

TESTED_ELSEWHERE = {
    "chat/find.py": "chat/test_cli.py",
    "chat/server.py": "chat/test_cli.py",
    "common/errors.py": "common/test_paths.py",
    "data/files.py": "data/test_sources.py",
    "data/held_out.py": "data/test_sources.py",
    "data/rendering.py": "data/test_loader.py",
    "data/shuffle.py": "data/test_sources.py",
    "data/streams.py": "data/test_sources.py",
    "data/tinyworld/plots.py": "data/tinyworld/test_stories.py",
    "engine/core.py": "engine/test_engine.py",
    "engine/request.py": "engine/test_engine.py",
    "info.py": "test_main.py",
    "model/hf.py": "model/test_gpt.py",
    "model/kv_cache.py": "model/test_gpt.py",
    "ops/native.py": "ops/test_attention.py",
    "ops/reference.py": "ops/test_attention.py",
    "ops/registration.py": "ops/test_attention.py",
    "report/tables.py": "report/test_card.py",
    "serve/metrics.py": "serve/test_server.py",
    "serve/routes.py": "serve/test_server.py",
    "speedrun.py": "../pipeline/test_speedrun.py",
    "tasks/base.py": "tasks/test_tinyworld.py",
    "tokenizer/split.py": "tokenizer/test_bpe.py",
    "train/base.py": "train/test_stages.py",
    "train/gpus.py": "train/test_plan.py",
    "train/inputs.py": "train/test_stages.py",
    "train/learner.py": "train/test_rl.py",
    "train/loop.py": "train/test_stages.py",
    "train/presets.py": "train/test_plan.py",
    "train/run.py": "train/test_stages.py",
    "train/stage.py": "train/test_stages.py",
    "train/tok.py": "train/test_stages.py",
}


def test_every_module_has_its_tests() -> None:
    package, tests = Path(nanochat.__file__).parent, Path(__file__).parent
    modules = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if not path.name.startswith("__") and path.relative_to(package).parts[0] != "bench"
    }
    homes = {
        module: TESTED_ELSEWHERE.get(module, str(Path(module).parent / f"test_{Path(module).name}"))
        for module in modules
    }
    assert [module for module, home in homes.items() if not (tests / home).exists()] == []
    assert sorted(TESTED_ELSEWHERE.keys() - modules) == []  # no exception outlives its module
