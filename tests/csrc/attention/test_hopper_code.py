"""What the compiler must say of the Hopper kernels, so that a GPU is not needed to see a slow one.

Usage: test_hopper_code.py nvcc

Compiles each source for sm_90a and reads the report of ptxas: no spills, and none of its remarks
about wgmma and setmaxnreg (C7508: registers not moved, C7510 and C7520: products serialised,
C7519: a fence that the source forgot).
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-gencode=arch=compute_90a,code=sm_90a"]
KERNELS = {"hopper_forward.cu": 4, "hopper_backward.cu": 4}


def report_of(nvcc: str, source: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        target = ["-cubin", "-o", f"{folder}/kernels.cubin", "-Xptxas", "-v"]
        command = [nvcc, *FLAGS, *target, "-I", str(ROOT / "csrc"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{source.name} does not compile:\n{done.stderr}")
    return done.stdout + done.stderr


def complaints(report: str, num_kernels: int) -> list[str]:
    found = re.findall(r".*\(C75\d\d\).*", report)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    if len(spills) != num_kernels:
        found.append(f"{num_kernels} kernels expected, {len(spills)} reported")
    return found + [f"spills: {stores} bytes stored" for stores, _ in spills if stores != "0"]


def main(nvcc: str) -> None:
    failed = False
    for name, num_kernels in KERNELS.items():
        for line in complaints(report_of(nvcc, ROOT / "csrc/attention" / name), num_kernels):
            print(f"{name}: {line}")
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1])
