"""Builds the sandbox around one program: a process of its own, from the standard library alone.

    caller --> launcher --> init, pid 1 of the namespaces --> program, the only other process there

The launcher enters new namespaces and waits for the end of init, or for SIGTERM, upon which it
kills init and with it, by the kernel, every process of the namespace. A launcher that dies takes
init along (PR_SET_PDEATHSIG), a caller that dies the launcher. Init builds the file system, starts
the program and writes what became of it to the status pipe, one line each:

    failed REASON         the sandbox cannot be built here
    started               the program's interpreter runs
    ended STATUS REPORT   wait status of the program; in hex, what it left in its report pipe

With ``isolate`` false (the unsafe mode) there are no namespaces and there is no file system of its
own; process group, limits and report are the same. Standard input carries a marshalled dict.
"""

# Importing pathlib would make the start a quarter longer.
# ruff: noqa: PTH102, PTH103, PTH106, PTH110, PTH112, PTH118, PTH120, PTH123, PTH211

from __future__ import annotations

import contextlib
import ctypes
import marshal
import math
import os
import resource
import select
import signal
import sys

TYPE_CHECKING = False  # by this name type checkers know it; typing itself would cost a quarter more
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

NOBODY = 65534
TMP_BYTES = 16 << 20
MAX_TASKS, MAX_FILES = 64, 64
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/gnu/store")

CLONE_FLAGS = {  # what the program gets a namespace of its own of
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 1, 2, 4, 8, 4096, 16384
MS_PRIVATE, MNT_DETACH = 1 << 18, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Entry: argv[1] is the number of the status pipe."""
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    try:
        launch(marshal.loads(sys.stdin.buffer.read()), status)
    except OSError as error:
        report(status, f"failed {error.filename or 'sandbox'}: {error.strerror}")
        raise SystemExit(1) from None


def launch(request: dict[str, Any], status: int) -> None:
    """Start init and wait until it, and all that it started, is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a caller may ignore it, and that is inherited
    if request["isolate"]:
        enter_namespaces()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    die_with_parent()
    if os.getppid() != request["caller"]:
        return  # the caller died before the line above
    watch, alive = os.pipe()  # this process alone holds `alive`
    init = os.fork()
    if init == 0:
        os.close(alive)
        child_main(status, lambda: run_init(request, status, watch))
    signal.sigwait({signal.SIGTERM, signal.SIGCHLD})
    for kill in (os.killpg, os.kill):  # init leads its group once it has called setsid
        with contextlib.suppress(ProcessLookupError):
            kill(init, signal.SIGKILL)
    os.waitpid(init, 0)  # returns when the pid namespace is empty


def run_init(request: dict[str, Any], status: int, watch: int) -> None:
    """Pid 1: prepare the file system, start the program, report its end."""
    die_with_parent()
    if select.select([watch], [], [], 0)[0]:
        return  # the launcher died before the line above
    # Pid 1 is immune to signals that it does not handle; Python handles this one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    if request["isolate"]:
        build_root()
    else:
        os.chdir(request["cwd"])
    code_r, code_w = os.pipe()
    report_r, report_w = os.pipe()
    setup_r, setup_w = os.pipe()
    program = os.fork()
    if program == 0:
        child_main(setup_w, lambda: become_program(request, code_r, report_w))
    for fd in (code_r, report_w, setup_w):
        os.close(fd)
    if problem := os.read(setup_r, 4096):  # empty once exec has closed the other end
        os.write(status, problem)
        return
    report(status, "started")
    try:
        with open(code_w, "wb") as pipe:
            pipe.write(request["token"] + request["code"])
    except BrokenPipeError:
        pass  # the interpreter did not live to read it; its wait status tells
    while True:
        pid, wait_status = os.wait()
        if pid == program:
            break
    os.set_blocking(report_r, False)
    try:
        said = os.read(report_r, 64)
    except BlockingIOError:  # a grandchild of the unsafe mode holds the other end
        said = b""
    report(status, f"ended {wait_status} {said.hex()}")


def become_program(request: dict[str, Any], code_r: int, report_w: int) -> NoReturn:
    """The program's process: give up everything, then execute the interpreter."""
    os.dup2(code_r, 0)
    os.set_inheritable(report_w, True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    set_limits(request)
    if request["isolate"]:
        drop_privileges(request["filter"])
    else:
        die_with_parent()
    # What -I means (-E -s -P), but for the fixed hash seed: the order of a set decides no grade.
    flags = ["-s", "-P", "-S", "-B", "-X", "utf8"]
    argv = [interpreter(), *flags, "-c", request["program"], str(report_w)]
    os.execve(argv[0], argv, {"PYTHONHASHSEED": "0"})


def child_main(problems: int, run: Callable[[], None]) -> NoReturn:
    """The body of a forked child: never returns into the parent's code."""
    try:
        run()
    except OSError as error:
        report(problems, f"failed {error.filename or 'sandbox'}: {error.strerror}")
    except BaseException as error:
        report(problems, f"failed sandbox: {error!r}")
    finally:
        os._exit(1)


def report(status: int, line: str) -> None:
    os.write(status, (line + "\n").encode())


def interpreter() -> str:
    """The interpreter outside of any virtual environment, by its real path."""
    return os.path.realpath(sys.executable)


# ---------------------------------------------------------------------------------------- isolation


def enter_namespaces() -> None:
    """Unshare all of them; user ids are mapped by a helper that has stayed outside.

    Root maps a second id, nobody, that the program changes to: the real root knows no RLIMIT_NPROC
    and owns too many files. Anybody else may map only himself, and does so by the name of nobody.
    """
    launcher, user, group = os.getpid(), os.geteuid(), os.getegid()
    go_r, go_w = os.pipe()
    problem_r, problem_w = os.pipe()
    helper = os.fork()
    if helper == 0:

        def write_maps() -> None:
            os.close(go_w)
            if os.read(go_r, 1):
                both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
                if user != 0:
                    write(f"/proc/{launcher}/setgroups", "deny")
                write(f"/proc/{launcher}/uid_map", f"{NOBODY} {user} 1\n" if user else both)
                write(f"/proc/{launcher}/gid_map", f"{NOBODY} {group} 1\n" if user else both)

        child_main(problem_w, write_maps)
    os.close(problem_w)
    check("unshare", _libc.unshare(sum(CLONE_FLAGS.values())))
    os.write(go_w, b"x")
    problem = os.read(problem_r, 4096).decode()
    os.waitpid(helper, 0)
    if problem:
        raise OSError(0, problem.removeprefix("failed sandbox: ").strip(), "mapping of user ids")
    for fd in (go_r, go_w, problem_r):
        os.close(fd)


def build_root() -> None:
    """A root of read-only libraries, three devices, a small /tmp; no /proc, /sys, /etc or home."""
    wanted = [*LIBRARIES, "/etc/ld.so.cache", interpreter()]
    wanted += [f"{sys.base_prefix}/{name}" for name in ("lib", "lib64")]
    places = sorted(
        {path: os.path.realpath(path) for path in wanted if os.path.exists(path)}.items()
    )
    packages = os.path.join(os.path.dirname(os.path.realpath(os.__file__)), "site-packages")

    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/host")
    check("pivot_root", _libc.pivot_root(b"/tmp", b"/tmp/host"))
    os.chdir("/")

    os.mkdir("/tmp")  # first, since an interpreter may live below it
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    options = f"size={TMP_BYTES},nr_inodes=1024,mode=700,uid={NOBODY},gid={NOBODY}"
    mount("tmpfs", "/tmp", "tmpfs", flags, options)
    for source in sorted({real for _, real in places}):
        if not os.path.exists(source):  # else it lies in a folder that is there already
            bind(f"/host{source}", source)
            set_attributes(source, MS_RDONLY | MS_NOSUID | MS_NODEV)
    for path, real in places:
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(real, path)
    if os.path.isdir(packages):
        mount("tmpfs", packages, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=555")
    for name in ("null", "zero", "urandom"):
        bind(f"/host/dev/{name}", f"/dev/{name}")
        set_attributes(f"/dev/{name}", MS_RDONLY | MS_NOSUID | MS_NOEXEC)

    check("umount", _libc.umount2(b"/host", MNT_DETACH))
    os.rmdir("/host")
    set_attributes("/", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, recursive=False)
    os.chdir("/tmp")
    check("sethostname", _libc.sethostname(b"sandbox", 7))


def drop_privileges(program: bytes) -> None:
    """Nobody, without a way to a capability, behind the system call filter.

    The capabilities themselves go with the execve: a user other than 0 keeps none.
    """
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    check("no_new_privs", _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    filter = ctypes.byref(Program(len(program) // 8, program))
    check("seccomp", _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0))


def set_limits(request: dict[str, Any]) -> None:
    cpu_s = math.ceil(request["timeout_s"]) + 1  # for a caller that is stopped and cannot end us
    limits = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (TMP_BYTES, TMP_BYTES),
        resource.RLIMIT_NOFILE: (MAX_FILES, MAX_FILES),
    }
    if sys.platform != "darwin":  # which refuses to set it
        limits[resource.RLIMIT_AS] = (request["memory_mib"] << 20,) * 2
    if request["isolate"]:
        limits[resource.RLIMIT_NPROC] = (MAX_TASKS, MAX_TASKS)
    for limit, (soft, hard) in limits.items():
        ceiling = resource.getrlimit(limit)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(limit, (soft, hard))


def die_with_parent() -> None:
    if sys.platform == "linux":
        check("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write(target, "")
    mount(source, target, None, MS_BIND | MS_REC)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    names = [text and text.encode() for text in (source, target, kind)]
    check(f"mount {target}", _libc.mount(*names, ctypes.c_ulong(flags), options.encode()))


def set_attributes(target: str, attributes: int, *, recursive: bool = True) -> None:
    """Add restrictions to a mount and those below it. MOUNT_ATTR_* equal MS_* for these four."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    at, size = AT_RECURSIVE if recursive else 0, ctypes.c_size_t(ctypes.sizeof(wanted))
    number, path = ctypes.c_long(SYS_MOUNT_SETATTR), target.encode()
    check(f"mount_setattr {target}", _libc.syscall(number, AT_FDCWD, path, at, wanted, size))


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def check(step: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)
