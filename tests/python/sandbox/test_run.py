"""run_python: outcomes, limits from outside, many at once, and the refusal."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanochat import sandbox
from nanochat.common.errors import UserError
from nanochat.sandbox import SandboxUnavailable, isolation, run

run_python = functools.partial(sandbox.run_python, timeout_s=60)  # a busy machine is no failure

ENDLESS = [
    "while True: pass",
    "10 ** 10 ** 9",  # inside C, where no Python signal handler runs
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
]
FLOODS = [
    "while True: print('x' * 1000)",
    "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "import os\nwhile True: os.write(1, b'x'), os.write(2, b'x')",
    "print('x' * 10001)",
]


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("isolated")
def test_code_that_never_ends_times_out() -> None:
    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        outcomes = list(pool.map(lambda code: run_python(code, timeout_s=1), ENDLESS))
    for code, outcome in zip(ENDLESS, outcomes, strict=True):
        assert (outcome.status, outcome.exit_code) == ("timeout", None), code
        assert outcome.seconds >= 1


@pytest.mark.usefixtures("isolated")
def test_output_before_a_sudden_end_is_kept() -> None:
    early = (
        "import os, sys\nfor out in (sys.stdout, sys.stderr): print('early', file=out, flush=True)"
    )
    outcome = run_python(f"{early}\nos.kill(os.getpid(), 9)")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("killed", "early\n", "early\n")


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("code", FLOODS)
def test_a_flood_of_output_is_cut_at_its_share(code: str) -> None:
    outcome = run_python(code, max_output_bytes=10000)
    assert outcome.status == "output"
    assert len(outcome.stdout) + len(outcome.stderr) == 10000


@pytest.mark.usefixtures("isolated")
def test_output_up_to_its_share_is_ok() -> None:
    outcome = run_python("print('x' * 9999)", max_output_bytes=10000)
    assert (outcome.status, len(outcome.stdout)) == ("ok", 10000)


@pytest.mark.usefixtures("isolated")
def test_many_run_at_once_and_nothing_is_left(processes: Any) -> None:
    before, files = processes.below(os.getpid()), num_open_files()
    with ThreadPoolExecutor(16) as pool:
        codes = [
            f"open('/tmp/mine', 'x').write('{n}')\nprint(open('/tmp/mine').read())"
            for n in range(16)
        ]
        outcomes = list(pool.map(run_python, codes))
    assert [outcome.stdout for outcome in outcomes] == [f"{number}\n" for number in range(16)]
    assert processes.below(os.getpid()) == before
    assert num_open_files() == files


@pytest.mark.usefixtures("isolated")
def test_a_caller_that_is_interrupted_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, processes: Any
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before, files = processes.below(os.getpid()), num_open_files()
    monkeypatch.setattr(run, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_python("while True: pass", timeout_s=1000)
    assert processes.below(os.getpid()) == before
    assert num_open_files() == files


@pytest.mark.usefixtures("isolated")
def test_a_caller_may_ignore_its_children() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert run_python("print('ran')").stdout == "ran\n"
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("isolated")
def test_an_interpreter_that_is_gone_is_no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    files = num_open_files()
    monkeypatch.setattr(run, "_INTERPRETER", "/nowhere/python")
    with pytest.raises(SandboxUnavailable, match="cannot be started"):
        run_python("")
    assert num_open_files() == files


@pytest.mark.usefixtures("isolated")
def test_long_code_is_no_problem() -> None:
    assert run_python("x = 1\n" * 100_000 + "print(x)").stdout == "1\n"


@pytest.mark.usefixtures("isolated")
def test_isolation_is_described() -> None:
    assert "namespaces" in (isolation() or "")


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout_s": 0.0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"memory_mib": 0},
        {"max_output_bytes": -1},
    ],
)
def test_limits_have_to_be_limits(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sandbox: limits must be positive and finite, got"):
        run_python("", **limits)


@pytest.fixture
def nothing_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_missing", lambda: "there is none")
    run._warn_unsafe.cache_clear()


@pytest.mark.usefixtures("nothing_isolates")
def test_without_isolation_code_is_refused() -> None:
    assert isolation() is None
    with pytest.raises(SandboxUnavailable, match=r"there is none; .*--unsafe-local-exec") as caught:
        run_python("print('ran')")
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("name", "attribute", "reason"),
    [
        ("sys.platform", "win32", "this is win32"),
        ("platform.machine", lambda: "riscv64", "there is no system call table for"),
    ],
)
def test_the_probe_knows_what_it_cannot_use(
    name: str, attribute: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name, attribute)
    assert reason in (run._missing.__wrapped__() or "")


NO_MORE_NAMESPACES = """
import ctypes, os
from nanochat.sandbox import SandboxUnavailable, isolation, run_python
user = os.geteuid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
open("/proc/self/uid_map", "w").write(f"0 {user} 1")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
assert isolation() is None
try: run_python("print('ran')")
except SandboxUnavailable as error: print(error)
"""


@pytest.mark.usefixtures("isolated")
def test_a_system_without_namespaces_is_found_out() -> None:
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", NO_MORE_NAMESPACES]
    outcome = subprocess.run(command, env=env, capture_output=True, text=True)
    if "max_user_namespaces" in outcome.stderr:
        pytest.skip("/proc/sys is read-only here")
    assert outcome.returncode == 0, outcome.stderr
    assert "unshare: No space left on device; enable" in outcome.stdout


@pytest.mark.usefixtures("nothing_isolates")
class TestUnsafeLocal:
    def test_it_warns_once_and_runs_in_a_folder_that_goes(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NANOCHAT_TEST_SECRET", "hunter2")
        code = (
            "import os\nopen('file', 'w').close()\n"
            "print(os.getcwd())\nprint('hunter2' in str(os.environ))"
        )
        for _ in range(2):
            outcome = run_python(code, unsafe_local=True)
            folder, secret = outcome.stdout.splitlines()
            assert (outcome.status, secret) == ("ok", "False")
            assert not Path(folder).exists()
        assert capfd.readouterr().err.count("WITHOUT isolation") == 1

    def test_outcomes_are_those_of_the_sandbox(self) -> None:
        assert run_python("import os\nos._exit(0)", unsafe_local=True).status == "error"
        assert run_python("import os\nos.abort()", unsafe_local=True).status == "killed"
        assert run_python("while True: pass", timeout_s=0.5, unsafe_local=True).status == "timeout"
        flood = run_python(FLOODS[0], max_output_bytes=100, unsafe_local=True)
        assert (flood.status, len(flood.stdout)) == ("output", 100)

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not enforce RLIMIT_AS")
    def test_memory_is_limited(self) -> None:
        assert run_python("x = bytearray(1 << 34)", unsafe_local=True).status == "memory"

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_children_of_its_group_go_with_it(self, processes: Any) -> None:
        fork = "import os, time\nif child := os.fork(): print(child)\nelse: time.sleep(1000)"
        outcome = run_python(fork, unsafe_local=True)
        assert outcome.status == "ok"
        processes.until(lambda: not processes.is_running(int(outcome.stdout)))
