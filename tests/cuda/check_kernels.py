"""What nvcc made of our kernels, held against a committed table; needs no GPU.

    python tests/cuda/check_kernels.py            fails on any finding
    python tests/cuda/check_kernels.py --write    writes kernels.json anew, findings or not

Compiles every .cu for every target that the build has for it, and reads what ptxas says and what
the disassembler shows:
    never       a spill, a stack, LDL or STL (local memory); wgmma serialised (C7510, C7512, C7514,
                C7520); setmaxnreg ignored (C7508)
    by table    registers above kernels.json, under the nvcc that wrote it; a kernel that lost an
                instruction it is there for (HGMMA, UTMALDG, ...); kernels that came or went
Needs nvcc, c++filt and the tools of: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("kernels.json")

# What a kernel is written for; others may come and go with the compiler.
NAMED_OPCODES = {"HGMMA", "HMMA", "IMMA", "UTMALDG", "UTMASTG", "UBLKRED", "LDGSTS", "LDSM"}
LOCAL_OPCODES = {"LDL", "STL"}
WARNINGS = {"C7508": "setmaxnreg ignored"}
WARNINGS |= dict.fromkeys(("C7510", "C7512", "C7514", "C7520"), "wgmma serialised")


@dataclass
class Kernel:
    """One entry function on one target."""

    registers: int = 0
    shared_bytes: int = 0  # static
    barriers: int = 0
    stack_bytes: int = 0
    spill_bytes: int = 0
    opcodes: list[str] = field(default_factory=list)  # of NAMED_OPCODES
    num_local: int = 0  # instructions on local memory

    def row(self) -> dict[str, Any]:
        """What the table keeps of it."""
        kept = {"registers": self.registers, "shared_bytes": self.shared_bytes}
        return kept | {"barriers": self.barriers, "opcodes": self.opcodes}


Kernels = dict[tuple[str, str], Kernel]  # by target and mangled name


def parse_ptxas(text: str) -> tuple[Kernels, list[str]]:
    """Kernels in the output of ptxas -v, and lines that are findings by themselves."""
    kernels: Kernels = {}
    current = described = Kernel()
    findings = []
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            current = kernels.setdefault((match[2], match[1]), Kernel())
        elif "Function properties for" in line:
            described = current  # of a function that was not inlined: its stack is the kernel's
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            described.stack_bytes += int(match[1])
            described.spill_bytes += int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            current.registers = int(match[1])
            if barriers := re.search(r"used (\d+) barriers", line):
                current.barriers = int(barriers[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                current.shared_bytes = int(shared[1])
        findings += [f"{why}: {line.strip()}" for code, why in WARNINGS.items() if code in line]
    return kernels, findings


def parse_sass(text: str, kernels: Kernels) -> None:
    """Add to ``kernels`` what the output of cuobjdump -sass says of them."""
    target, current = "", Kernel()
    opcodes: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r"\s*arch = (\w+)", line):
            target = match[1]
        elif match := re.match(r"\s*Function : (\w+)", line):
            current = kernels.get((target, match[1]), Kernel())
            opcodes = set()
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", line):
            current.num_local += match[1] in LOCAL_OPCODES
            if match[1] in NAMED_OPCODES and match[1] not in opcodes:
                opcodes.add(match[1])
                current.opcodes = sorted(opcodes)


def readable(mangled: Iterable[str]) -> dict[str, str]:
    """Names without what is the same in all of them, nor return types and parameters."""
    names = list(mangled)
    lines = subprocess.run(
        ["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True
    ).stdout.splitlines()
    return {name: shorten(line) for name, line in zip(names, lines, strict=True)}


def shorten(demangled: str) -> str:
    """cross_entropy::row_kernel<BFloat16, true> of its whole signature."""
    name = demangled.removeprefix("void ").replace("(anonymous namespace)::", "")
    name = re.sub(r"\((?:bool|int)\)", "", name.replace("nanochat::", "")).replace("> >", ">>")
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def check(kernels: dict[str, dict[str, Kernel]], table: dict[str, Any], nvcc: str) -> list[str]:
    """Findings, by target and readable name."""
    findings = []
    for target, row in kernels.items():
        for name, kernel in row.items():
            what = f"{name} on {target}"
            if kernel.spill_bytes or kernel.stack_bytes or kernel.num_local:
                findings.append(
                    f"{what}: {kernel.spill_bytes} bytes of spills, {kernel.stack_bytes} of stack, "
                    f"{kernel.num_local} local loads and stores"
                )
            known = table["kernels"].get(target, {}).get(name)
            if known is None:
                findings.append(f"{what}: not in the table; run with --write")
                continue
            if nvcc == table["nvcc"] and kernel.registers > known["registers"]:
                findings.append(
                    f"{what}: {kernel.registers} registers, {known['registers']} in the table"
                )
            if lost := set(known["opcodes"]) - set(kernel.opcodes):
                findings.append(f"{what}: no {', '.join(sorted(lost))} any more")
    for target, rows in table["kernels"].items():
        gone = sorted(rows.keys() - kernels.get(target, {}).keys())
        findings += [
            f"{name} on {target}: in the table, but gone; run with --write" for name in gone
        ]
    hopper = [set(kernel.opcodes) for kernel in kernels.get("sm_90a", {}).values()]
    if hopper and not any({"HGMMA", "UTMALDG"} <= opcodes for opcodes in hopper):
        findings.append("sm_90a: no kernel with both HGMMA and UTMALDG")
    return findings


def find_tools() -> dict[str, str]:
    """Environment in which cuobjdump and nvdisasm are found."""
    wheel = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin"))
    path = os.pathsep.join([os.environ["PATH"], *map(str, wheel)])
    for tool in ("nvcc", "cuobjdump", "nvdisasm", "c++filt"):
        if shutil.which(tool, path=path) is None:
            raise SystemExit(
                f"check_kernels: {tool} not found; install the CUDA toolkit, and "
                "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
            )
    return os.environ | {"PATH": path}


def compile_commands(build: Path) -> list[tuple[Path, list[str]]]:
    """Every .cu with the command that the build compiles it with."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DNANOCHAT_CUDA=ON"]
    configure += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    pybind = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    )
    configure.append(f"-Dpybind11_DIR={pybind.stdout.strip()}")
    subprocess.run([*configure, "-G", "Ninja"], check=True, stdout=subprocess.DEVNULL)
    entries = json.loads((build / "compile_commands.json").read_text())
    return [
        (Path(entry["file"]), shlex.split(entry["command"]))
        for entry in entries
        if entry["file"].endswith(".cu")
    ]


def compile_and_read(
    source: Path, command: list[str], folder: Path, environment: dict[str, str]
) -> tuple[Kernels, list[str]]:
    """Compile one source as the build does, with ptxas speaking; kernels and findings."""
    target = folder / f"{source.relative_to(ROOT).as_posix().replace('/', '.')}.o"
    command = [*command[: command.index("-o")], "-Xptxas", "-v", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"check_kernels: {source} does not compile\n{done.stderr}")
    kernels, findings = parse_ptxas(done.stdout + done.stderr)
    if kernels:
        sass = subprocess.run(
            ["cuobjdump", "-sass", str(target)],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        parse_sass(sass.stdout, kernels)
    return kernels, [f"{source.relative_to(ROOT)}: {finding}" for finding in findings]


def nvcc_version(environment: dict[str, str]) -> str:
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, env=environment)
    match = re.search(r"release ([\d.]+)", done.stdout)
    return match[1] if match else "unknown"


def table_text(kernels: dict[str, dict[str, Kernel]], nvcc: str) -> str:
    """JSON with a line for each kernel, so that a change is seen as one."""
    targets = []
    for target, rows in sorted(kernels.items()):
        lines = [f"   {json.dumps(name)}: {json.dumps(rows[name].row())}" for name in sorted(rows)]
        targets.append(f"  {json.dumps(target)}: {{\n" + ",\n".join(lines) + "\n  }")
    return f'{{\n "nvcc": "{nvcc}",\n "kernels": {{\n' + ",\n".join(targets) + "\n }\n}\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table anew")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args(argv)
    environment = find_tools()
    with tempfile.TemporaryDirectory() as folder:
        commands = compile_commands(Path(folder))
        with ThreadPoolExecutor(args.jobs) as pool:
            results = list(
                pool.map(lambda c: compile_and_read(*c, Path(folder), environment), commands)
            )
    findings = [finding for _, found in results for finding in found]
    names = readable({name for kernels, _ in results for _, name in kernels})
    kernels: dict[str, dict[str, Kernel]] = {}
    for found, _ in results:
        for (target, mangled), kernel in found.items():
            rows = kernels.setdefault(target, {})
            if names[mangled] in rows:
                findings.append(f"{names[mangled]} on {target}: two kernels of one name")
            rows[names[mangled]] = kernel

    nvcc = nvcc_version(environment)
    if args.write:
        TABLE.write_text(table_text(kernels, nvcc))
    findings += check(kernels, json.loads(TABLE.read_text()), nvcc)
    counts = ", ".join(f"{len(rows)} on {target}" for target, rows in sorted(kernels.items()))
    print(f"check_kernels: nvcc {nvcc}, kernels: {counts}")
    for finding in findings:
        print(f"  {finding}")
    if findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
