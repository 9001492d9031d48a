"""The reader of nvcc's and cuobjdump's words, on words that they said."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

script: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("check_kernels.py")))
Kernel = script["Kernel"]

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3oneIfEvv' for 'sm_80'
ptxas info    : Function properties for _Z3oneIfEvv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 47 registers, used 1 barriers, 128 bytes smem, 416 bytes cmem[0]
ptxas info    : Compile time = 65.385 ms
ptxas info    : Compiling entry function '_Z3twov' for 'sm_90a'
ptxas info    : Function properties for _Z3twov
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers
ptxas info    : Function properties for _Z6calleev
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized \
due to the presence of Extern calls in the function '_Z3twov'
ptxas info    : (C7508) 'setmaxnreg' ignored to maintain minimum register requirement.
"""

SASS = """\
Fatbin elf code:
================
arch = sm_80
\t\tFunction : _Z3oneIfEvv
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/                   MOV R1, c[0x0][0x28] ;              /* 0x00000a0000017a02 */
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;  /* 0x000000020804723c */
        /*0020*/              @!P0 LDGSTS.E.BYPASS.128 [R5], [R2.64] ;   /* 0x0000000002057fae */
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;  /* 0x000000020804723c */
arch = sm_90a
\t\tFunction : _Z3twov
        /*0000*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], !UPT ;  /* 0x1 */
        /*0010*/             @UP1 UTMALDG.4D [UR8], [UR4] ;              /* 0x00000008040075b4 */
        /*0020*/               @P3 STL.64 [R1+0x8], R4 ;                 /* 0x0000080401007387 */
        /*0030*/                   LDL R4, [R1] ;                        /* 0x0000000001047983 */
"""


def read() -> Any:
    kernels, findings = script["parse_ptxas"](PTXAS)
    script["parse_sass"](SASS, kernels)
    return kernels, findings


def test_registers_shared_memory_spills_and_opcodes_are_read() -> None:
    kernels, findings = read()
    assert kernels == {
        ("sm_80", "_Z3oneIfEvv"): Kernel(
            registers=47, shared_bytes=128, barriers=1, opcodes=["HMMA", "LDGSTS"]
        ),
        ("sm_90a", "_Z3twov"): Kernel(
            registers=255,
            stack_bytes=40,
            spill_bytes=20,
            opcodes=["HGMMA", "UTMALDG"],
            num_local=2,
        ),
    }
    assert [finding.partition(":")[0] for finding in findings] == [
        "wgmma serialised",
        "setmaxnreg ignored",
    ]


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        (
            "void nanochat::cross_entropy::(anonymous namespace)::row_kernel<nanochat::BFloat16, "
            "true, false>(nanochat::cross_entropy::(anonymous namespace)::Args<float>)",
            "cross_entropy::row_kernel<BFloat16, true, false>",
        ),
        (
            "void nanochat::attention::dq_kernel<nanochat::attention::Tile<(int)64> >(int*, int)",
            "attention::dq_kernel<attention::Tile<64>>",
        ),
        ("plain(float*)", "plain"),
    ],
)
def test_names_are_short(demangled: str, name: str) -> None:
    assert script["shorten"](demangled) == name


def table(**rows: Any) -> Any:
    known = {name: kernel.row() for name, kernel in rows.items()}
    return {"nvcc": "13.0", "kernels": {"sm_80": known}}


def test_what_the_table_says_holds() -> None:
    good = Kernel(registers=40, opcodes=["HMMA"])
    check = script["check"]
    assert check({"sm_80": {"a": good}}, table(a=good), "13.0") == []
    fewer = Kernel(registers=39, opcodes=["HMMA", "LDSM"])
    assert check({"sm_80": {"a": fewer}}, table(a=good), "13.0") == []
    more = Kernel(registers=41)
    assert check({"sm_80": {"a": more}}, table(a=good), "13.0") == [
        "a on sm_80: 41 registers, 40 in the table",
        "a on sm_80: no HMMA any more",
    ]
    assert (
        check({"sm_80": {"a": Kernel(registers=41, opcodes=["HMMA"])}}, table(a=good), "13.1") == []
    )
    assert check({"sm_80": {"b": good}}, table(a=good), "13.0") == [
        "b on sm_80: not in the table; run with --write",
        "a on sm_80: in the table, but gone; run with --write",
    ]


def test_what_no_table_excuses() -> None:
    bad = Kernel(spill_bytes=8, stack_bytes=16, num_local=3)
    assert script["check"]({"sm_80": {"a": bad}}, table(a=bad), "13.0") == [
        "a on sm_80: 8 bytes of spills, 16 of stack, 3 local loads and stores"
    ]
    plain = {"nvcc": "13.0", "kernels": {"sm_90a": {"a": Kernel(opcodes=["HGMMA"]).row()}}}
    assert script["check"]({"sm_90a": {"a": Kernel(opcodes=["HGMMA"])}}, plain, "13.0") == [
        "sm_90a: no kernel with both HGMMA and UTMALDG"
    ]


def test_the_table_is_written_as_it_is_read() -> None:
    text = script["TABLE"].read_text()
    known = json.loads(text)
    kernels = {
        target: {name: Kernel(**row) for name, row in rows.items()}
        for target, rows in known["kernels"].items()
    }
    assert script["table_text"](kernels, known["nvcc"]) == text
    assert script["check"](kernels, known, known["nvcc"]) == []
