"""Kill the speedrun at random moments, let it finish, compare its weights with an undisturbed run.

    python tests/pipeline/kill_resume.py --kills 20 --seed 1 --reference RUN -- --num-iterations 60

A command and not a test: it takes as long as the journey and what the kills throw away. The moments
follow the clock, so each run of it kills elsewhere; the promise is that it never matters.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "speedrun.py"


def start(home: Path, options: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "NANOCHAT_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "--preset", "cpu", "--run", "killed", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of the weights of the newest checkpoint of each stage."""
    newest = {stage: max((run / stage).glob("step_*")) for stage in ("base", "sft")}
    return {
        stage: hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for stage, folder in newest.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=40.0, help="longest life between kills")
    parser.add_argument("--reference", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("options", nargs="*", help="options of the speedrun, after --")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        kills = 0
        while kills < arguments.kills:
            process = start(home, arguments.options)
            life = rng.uniform(1.0, arguments.seconds)
            try:
                process.wait(life)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                print(f"kill {kills} after {life:.1f} s", flush=True)
                continue
            print(f"finished before kill {kills + 1}", flush=True)
            break
        began = time.monotonic()
        if start(home, arguments.options).wait() != 0:
            print("the journey did not finish")
            return 1
        print(f"the rest took {time.monotonic() - began:.0f} s")
        ours, theirs = weights(home / "runs" / "killed"), weights(arguments.reference)
    for stage in ours:
        print(
            f"{stage}: {ours[stage][:16]} {'==' if ours == theirs else '!='} {theirs[stage][:16]}"
        )
    return 0 if ours == theirs else 1


if __name__ == "__main__":
    sys.exit(main())
