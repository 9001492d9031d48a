"""Attacks. Where the filter and the namespaces both stand in the way, each has to hold alone."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import nanochat
from nanochat import sandbox
from nanochat.sandbox import Outcome, launcher, run

pytestmark = pytest.mark.usefixtures("isolated")
run_python = functools.partial(sandbox.run_python, timeout_s=60)  # a busy machine is no failure

# Each line of an attack goes through this: what it got, or the error that stopped it.
ATTEMPT = """
import os, socket
def attempt(name, act):
    try: print(name, "GOT", act())
    except Exception as error: print(name, "stopped:", error)
"""


def stopped(outcome: Outcome, num_attempts: int) -> bool:
    lines = outcome.stdout.splitlines()
    return (
        outcome.status == "ok"
        and len(lines) == num_attempts
        and all("stopped:" in line for line in lines)
    )


@pytest.mark.usefixtures("each_layer")
def test_there_is_no_network() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        name = f"\0nanochat-sandbox-test-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        outcome = run_python(f"""{ATTEMPT}
address = ("127.0.0.1", {server.getsockname()[1]})
attempt("tcp", lambda: socket.create_connection(address, 5))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect({name!r}))
attempt("udp", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", address))
attempt("dns", lambda: socket.getaddrinfo("example.com", 80))
attempt("raw", lambda: socket.socket(type=socket.SOCK_RAW, proto=1))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
""")
        assert stopped(outcome, 6), outcome
        for listening in (server, abstract):
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()


def test_the_network_namespace_holds_only_a_loopback_that_is_down(without_filter: None) -> None:
    outcome = run_python("""
import socket
print([name for _, name in socket.if_nameindex()])
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), 5)
""")
    assert (outcome.status, outcome.stdout) == ("error", "['lo']\n"), outcome
    assert "Network is unreachable" in outcome.stderr


@pytest.mark.usefixtures("each_layer")
def test_files_outside_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    paths = [
        str(secret),
        nanochat.__file__,
        "/etc/passwd",
        "/etc/hostname",
        "../../../../etc/passwd",
        "/proc/self/environ",
        "/proc/1/environ",
        f"/proc/self/root{secret}",
        "/proc/1/root/etc/passwd",
        f"/proc/{os.getpid()}/environ",
        "/proc/self/fd/0",
        "/dev/fd/0",
        "/dev/mem",
        "/dev/kmsg",
        "/sys/kernel/notes",
        "/host/etc/passwd",
        f"/host{secret}",
    ]
    outcome = run_python(f"""{ATTEMPT}
for path in {paths}:
    attempt(path, lambda: open(path, "rb").read(10))
os.symlink({str(secret)!r}, "/tmp/link")
attempt("symlink", lambda: open("/tmp/link").read())
attempt("hard link", lambda: os.link({str(secret)!r}, "/tmp/hard"))
attempt("home", lambda: os.listdir(os.path.expanduser("~")) or 1 / 0)
attempt("parents", lambda: [name for name in os.listdir("../" * 10) if name in ("home", "proc")][0])
""")
    assert stopped(outcome, len(paths) + 4), outcome


@pytest.mark.usefixtures("each_layer")
def test_the_root_holds_the_interpreter_and_nothing_else() -> None:
    outcome = run_python("""
import os, sys
print(*sorted(os.listdir("/dev")))
own = [name for name in os.listdir("/tmp") if not sys.base_prefix.startswith("/tmp/" + name)]
print(own, os.listdir("/etc"), os.getcwd())
top = {path.split("/")[1] for path in (sys.executable, sys.base_prefix)}
print(*sorted(set(os.listdir("/")) - top - {"lib", "lib64", "usr", "nix", "gnu"}))
print(os.listdir("/usr"))
print(os.path.isdir(os.path.dirname(os.__file__) + "/site-packages/pip"))
print(open("/dev/null").read() == "", len(open("/dev/urandom", "rb").read(4)))
""")
    assert outcome.status == "ok", outcome
    dev, tmp, top, usr, packages, devices = outcome.stdout.splitlines()
    assert dev == "null urandom zero"
    assert tmp in ("[] ['ld.so.cache'] /tmp", "[] [] /tmp")
    assert set(top.split()) == {"dev", "etc", "tmp"}
    assert "share" not in usr and "sbin" not in usr
    assert (packages, devices) == ("False", "True 4")


@pytest.mark.usefixtures("each_layer")
def test_nothing_outside_tmp_can_be_written(tmp_path: Path) -> None:
    places = [str(tmp_path), *launcher.LIBRARIES, str(Path(os.__file__).parent)]
    places += ["/", "/dev", "/etc", "/usr", sys.base_prefix + "/lib", "/root", "/home", "/var/tmp"]
    interpreter = os.path.realpath(run._INTERPRETER)
    outcome = run_python(f"""{ATTEMPT}
for place in {places}:
    attempt(place, lambda: open(place + "/nanochat-was-here", "w"))
    attempt(place, lambda: os.mkdir(place + "/nanochat-was-here"))
attempt("interpreter", lambda: open({interpreter!r}, "r+b"))
attempt("os.py", lambda: open(os.__file__, "a"))
attempt("mode", lambda: os.chmod(os.__file__, 0o777))
attempt("time", lambda: os.utime(os.__file__))
attempt("rename", lambda: os.rename(os.__file__, os.__file__ + "x"))
attempt("remove", lambda: os.remove(os.__file__))
attempt("device", lambda: os.chmod("/dev/null", 0))
attempt("node", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)))
""")
    assert stopped(outcome, 2 * len(places) + 8), outcome
    assert list(tmp_path.iterdir()) == []


def test_mounts_carry_their_restrictions() -> None:
    outcome = run_python("""
import os, sys
def flags(path):
    return [name for name in ("RDONLY", "NOSUID", "NODEV", "NOEXEC")
            if os.statvfs(path).f_flag & getattr(os, "ST_" + name)]
for path in ("/", "/tmp", "/dev/null", os.__file__, sys.executable): print(*flags(path))
""")
    assert outcome.stdout.splitlines() == [
        "RDONLY NOSUID NODEV NOEXEC",
        "NOSUID NODEV NOEXEC",
        "RDONLY NOSUID NOEXEC",
        "RDONLY NOSUID NODEV",
        "RDONLY NOSUID NODEV",
    ], outcome


def test_there_is_no_way_to_another_root(without_filter: None) -> None:
    outcome = run_python(f"""{ATTEMPT}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
os.mkdir("/tmp/jail")
attempt("chroot", lambda: os.chroot("/tmp/jail"))
attempt("remount", lambda: call("mount", None, b"/", None, 32 | 4096, None))
attempt("mount", lambda: call("mount", b"proc", b"/tmp/jail", b"proc", 0, None))
attempt("umount", lambda: call("umount2", b"/tmp", 2))
attempt("setns", lambda: call("setns", 0, 0))
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("hostname", lambda: call("sethostname", b"x", 1))
attempt("device", lambda: open("/tmp/jail/../../dev/sda"))
""")
    assert stopped(outcome, 9), outcome


def test_there_are_no_privileges() -> None:
    outcome = run_python("""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[7] * 6)
assert libc.capget(header, sets) == 0
print(list(sets))
print({libc.prctl(23, capability, 0, 0, 0) for capability in range(40)})  # PR_CAPBSET_READ
print(libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0))  # PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP
print(os.getresuid(), os.getresgid(), set(os.getgroups()) - {65534}, os.uname().nodename)
""")
    nobody = (launcher.NOBODY,) * 3
    assert outcome.stdout.splitlines() == [
        "[0, 0, 0, 0, 0, 0]", "{0}", "1 2", f"{nobody} {nobody} set() sandbox",
    ], outcome  # fmt: skip


def test_the_environment_and_open_files_of_the_caller_stay_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NANOCHAT_TEST_SECRET", "hunter2")
    monkeypatch.setenv("PYTHONSTARTUP", "hunter2")
    (tmp_path / "open").write_text("hunter2")
    with (tmp_path / "open").open() as file:
        os.set_inheritable(file.fileno(), True)
        outcome = run_python("""
import os, stat, sys
print(set(os.environ) - {"PYTHONHASHSEED", "LC_CTYPE"}, sys.orig_argv[:-3], sys.stdin.read())
for fd in range(64):
    try: print(fd, stat.S_ISFIFO(os.fstat(fd).st_mode))
    except OSError: pass
""")
    words, *files = outcome.stdout.splitlines()
    assert words.startswith("set() [") and "hunter2" not in words, outcome
    assert files[:3] == ["0 True", "1 True", "2 True"]
    assert len(files) == 4 and files[3].endswith(" True")  # the report pipe


@pytest.mark.usefixtures("each_layer")
def test_signals_reach_nobody_else() -> None:
    outcome = run_python(f"""{ATTEMPT}
import signal
print(os.getpid(), os.getppid())
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
attempt("others", lambda: os.kill(-1, signal.SIGKILL))
attempt("caller", lambda: os.kill({os.getpid()}, signal.SIGKILL))
print("alive")
""")
    lines = outcome.stdout.splitlines()
    assert (lines[0], lines[-1], outcome.status) == ("2 1", "alive", "ok"), outcome
    assert all("No such process" in line for line in lines[1:-1])


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", signal.SIGKILL),
        ("os.kill(0, signal.SIGKILL)", signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", signal.SIGTERM),
        ("os.abort()", signal.SIGABRT),
        ("ctypes.string_at(0)", signal.SIGSEGV),
    ],
)
def test_a_program_that_dies_of_a_signal_is_killed(code: str, number: int) -> None:
    outcome = run_python(f"import ctypes, os, signal\n{code}")
    assert (outcome.status, outcome.exit_code) == ("killed", -number), outcome


def test_limits_are_set() -> None:
    outcome = run_python(
        "import resource as r\n"
        "for name in ('CPU', 'CORE', 'FSIZE', 'NOFILE', 'NPROC', 'AS'):\n"
        "    print(name, *r.getrlimit(getattr(r, 'RLIMIT_' + name)))",
        timeout_s=20.5,
        memory_mib=200,
    )
    tmp, memory = launcher.TMP_BYTES, 200 << 20
    assert outcome.stdout.splitlines() == [
        "CPU 22 23", "CORE 0 0", f"FSIZE {tmp} {tmp}", "NOFILE 64 64", "NPROC 64 64",
        f"AS {memory} {memory}",
    ], outcome  # fmt: skip
    cpu = run_python("import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)")
    assert (cpu.status, cpu.exit_code) == ("timeout", None)


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(1 << 34)",
        "x = []\nwhile True: x.append(bytearray(10000))",
        "x = 'x'\nwhile True: x += x",
        "import threading\nx = []\ndef eat():\n    while True: x.append(bytearray(100000))\n"
        "threading.Thread(target=eat, daemon=True).start()\neat()",
    ],
)
def test_a_memory_bomb_ends_in_memory(code: str) -> None:
    outcome = run_python(code, memory_mib=200)
    assert outcome.status == "memory", outcome


def test_the_disk_is_small() -> None:
    outcome = run_python("""
def fill(path):
    size = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while True: size += file.write(bytes(1 << 20))
    except OSError: return size
print(sum(fill(f"/tmp/{number}") for number in range(4)))
try:
    for number in range(10**6): open(f"/tmp/empty{number}", "w").close()
except OSError: print(number < 2000)
""")
    assert outcome.stdout == f"{launcher.TMP_BYTES}\nTrue\n", outcome


def test_a_fork_bomb_is_bounded_by_the_task_limit(without_filter: None) -> None:
    outcome = run_python("""
import os, time
count = 0
while True:
    try: child = os.fork()
    except OSError: break
    if child == 0: time.sleep(1000)
    count += 1
print(count)
""")
    assert outcome.status == "ok", outcome
    assert 0 < int(outcome.stdout) <= launcher.MAX_TASKS


ENDLESS = "while True: pass"
FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
DAEMON = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0), os.close(1), os.close(2)
        time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (FORK_BOMB, "timeout"),
        (DAEMON + "time.sleep(1000)", "timeout"),
        (DAEMON + "time.sleep(0.5)\nos._exit(0)", "error"),
    ],
    ids=["fork bomb", "daemon outlives timeout", "daemon outlives program"],
)
def test_on_return_nothing_is_left(
    code: str, status: str, without_filter: None, processes: Any
) -> None:
    before = processes.below(os.getpid())
    outcomes: list[Outcome] = []
    limit_s = 1 if status == "timeout" else 60
    thread = threading.Thread(target=lambda: outcomes.append(run_python(code, timeout_s=limit_s)))
    thread.start()
    seen = set()
    while thread.is_alive():
        seen |= processes.below(os.getpid()) - before
    thread.join()
    assert processes.alive(seen) == set()
    assert outcomes[0].status == status, outcomes
    assert len(seen) >= 3, "launcher, init and program ran"


def test_every_namespace_is_its_own(processes: Any) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run_python(ENDLESS)))
    thread.start()
    program: list[int] = []

    def started() -> bool:
        program[:] = [pid for pid, _ in processes.below(os.getpid()) if b"TOKEN" in cmdline(pid)]
        return bool(program)

    processes.until(started)
    kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    shared = [kind for kind in kinds if namespace(program[0], kind) == namespace(os.getpid(), kind)]
    os.kill(program[0], signal.SIGKILL)
    thread.join()
    assert shared == []
    assert (outcomes[0].status, outcomes[0].exit_code) == ("killed", -signal.SIGKILL)


def namespace(pid: int, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


CALLER = """
from nanochat.sandbox import isolation, run_python
print(bool(isolation()), flush=True)
run_python("while True: pass", timeout_s=1000)
"""


@pytest.mark.parametrize("victim", ["caller", "launcher", "init"])
def test_a_kill_at_any_height_takes_everything_below_along(victim: str, processes: Any) -> None:
    command, env = [sys.executable, "-c", CALLER], {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"True\n"  # the probe is over
            chain: list[tuple[int, str]] = []

            def grown() -> bool:
                """Launcher, init, program: the last has other words on its command line."""
                chain[:] = sorted(processes.below(caller.pid))
                return len(chain) == 3 and b"TOKEN" in cmdline(chain[-1][0])

            processes.until(grown)
            pid = {"caller": caller.pid, "launcher": chain[0][0], "init": chain[1][0]}[victim]
            os.kill(pid, signal.SIGKILL)
            processes.until(lambda: not processes.alive(set(chain)))
            assert caller.wait(60) == (-signal.SIGKILL if victim == "caller" else 0)
        finally:
            caller.kill()


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
