"""The system call filter of the sandboxed program: a denylist in classic BPF.

Namespaces already hide what a program could reach. The filter adds three things. There is one
process: fork fails, threads are allowed, so that RLIMIT_AS bounds the memory of the whole program
and there is no fork bomb. There is no memory outside the address space (memfd, System V segments,
message queues). And calls by which programs have escaped from namespaces are out of reach. Calls
newer than the table answer "not implemented", which every libc expects of an older kernel.
"""

import errno
import platform
import struct

_ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
}  # AUDIT_ARCH_*, column below
_NEWEST = 441  # epoll_pwait2, Linux 5.11; numbers above mean the same on every architecture

DENIED: dict[str, tuple[int | None, int | None]] = {  # x86_64, aarch64
    "fork": (57, None),
    "vfork": (58, None),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # sockets: some families (vsock, alg) know no network namespace; socketpair stays
    "socket": (41, 198),
    # memory that RLIMIT_AS does not count
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # kernel interfaces with a history of holes
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "syslog": (103, 116),
    "vmsplice": (278, 75),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
_CLONE = (56, 220)
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look; libc falls back to clone
_CLONE_THREAD = 0x10000

# Offsets into struct seccomp_data; both architectures are little-endian.
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


def build_filter() -> bytes | None:
    """The filter as an array of ``struct sock_filter``; None on an architecture without a table."""
    if platform.machine() not in _ARCHITECTURES:
        return None
    arch, column = _ARCHITECTURES[platform.machine()]
    code = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, arch, jump_true=1),
        _step(_RETURN, _KILL),  # 32-bit calls have other numbers
        _step(_LOAD, _NR),
        _step(_AT_LEAST, _NEWEST + 1, jump_false=1),
        _step(_RETURN, _FAIL | errno.ENOSYS),
        _step(_EQUAL, _CLONE3, jump_false=1),
        _step(_RETURN, _FAIL | errno.ENOSYS),
    ]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            code += [_step(_EQUAL, number, jump_false=1), _step(_RETURN, _FAIL | errno.EPERM)]
    code += [
        _step(_EQUAL, _CLONE[column], jump_false=3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, jump_true=1),
        _step(_RETURN, _FAIL | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _step(code: int, value: int, *, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, value)
