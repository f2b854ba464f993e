"""Kernels of processors that this machine does not have, beside the plain one, in an emulator."""

from __future__ import annotations

import pytest
from edgec.compiler.kernels.shapes import Shape

from .emulated import MACHINES, Machine

MISTAKES = {
    "neon": ("neon.c", "table + m * stride + 64 + g * 16", "table + m * stride + g * 16"),
    "neon_dot": ("neon.c", "vdupq_n_u32(0x30201000)", "vdupq_n_u32(0x20301000)"),
    "hvx": ("hvx.c", "Q6_V_vand_VV(odd, low), place[2]", "Q6_V_vand_VV(odd, low), place[0]"),
}
OTHER_MISTAKES = {  # in tables of floats, of 16 bits, in how tables are made, in the weights themselves
    "exact_tile": ("neon", "neon.c", "vdupq_n_u32(0x03020100)", "vdupq_n_u32(0x03020000)"),
    "words": ("neon", "words.h", "value - upper * 256", "value - upper * 255"),
    "hvx words": ("hvx", "hvx.c", "sum[0][n] + sum[1][n]", "sum[0][n]"),
    "tables": ("neon", "neon.c", "q & 2 ? four[3] : -four[3]", "q & 2 ? four[3] : four[3]"),
    "dequantise": ("neon", "neon.c", "lookup_bit[i]), patterns", "lookup_bit[3 - i]), patterns"),
    "hvx dequantise": ("hvx", "hvx.c", "lookup_bit[4 * p + i][u & 15]", "lookup_bit[4 * p + 3 - i][u & 15]"),
}
SHAPES = [Shape(128, 2, 32), Shape(64, 3, 32), Shape(96, 4, 32), Shape(256, 1, 64)]
PAIRS = [(machine, kernel) for machine in MACHINES.values() for kernel in machine.kernels]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The program of cases for a machine."""
    built = {}

    def of(machine: Machine):
        if machine.missing:
            pytest.skip(f"not installed: {machine.missing}")
        if machine not in built:
            built[machine] = machine.build(tmp_path_factory.mktemp(machine.name), "cases")
        return built[machine]

    return of


@pytest.mark.parametrize(("machine", "kernel"), PAIRS, ids=[kernel for _, kernel in PAIRS])
def test_random_cases(cases, machine, kernel):
    done = machine.run(cases(machine), kernel, 150, 1)
    assert "150 cases, 0 wrong" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(("machine", "kernel"), PAIRS, ids=[kernel for _, kernel in PAIRS])
def test_a_mistake_is_found(cases, machine, kernel, tmp_path):
    cases(machine)
    done = machine.run(machine.build(tmp_path, "cases", MISTAKES[kernel]), kernel, 20, 1)
    assert done.returncode == 1


@pytest.mark.parametrize("what", OTHER_MISTAKES)
def test_a_mistake_elsewhere_is_found(cases, what, tmp_path):
    kernel, *change = OTHER_MISTAKES[what]
    machine = next(machine for machine, other in PAIRS if other == kernel)
    cases(machine)
    done = machine.run(machine.build(tmp_path, "cases", tuple(change)), kernel, 20, 1)
    assert done.returncode == 1


def test_a_specialised_product_gives_the_same_bytes(cases, tmp_path):
    arm = MACHINES["aarch64"]
    change = ("lookup.h", "panels(w, t, tokens, from, to, y, bits, block / 32, inputs);", "(void)w;")
    general, special = cases(arm), arm.build(tmp_path, "cases", shapes=SHAPES)
    without = arm.build(tmp_path / "without", "cases", change, SHAPES)
    for kernel in arm.kernels:
        made = [arm.run(program, kernel, 100, 1).stdout for program in (general, special, without)]
        assert made[0] == made[1]
        assert made[0] != made[2]  # the specialised one is what runs


def test_a_processor_without_dot_products_is_asked(cases):
    machine = MACHINES["aarch64"]
    program = cases(machine)
    older = Machine("aarch64", machine.compiler, ("qemu-aarch64", "-cpu", "cortex-a53"), machine.kernels)
    assert "no kernel `neon_dot` here" in older.run(program, "neon_dot", 1).stdout
    assert "0 wrong" in older.run(program, "neon", 10).stdout


@pytest.mark.parametrize("name", MACHINES)
def test_the_baseline_that_is_counted_against_is_right(name, tmp_path):
    machine = MACHINES[name]
    if machine.missing:
        pytest.skip(f"not installed: {machine.missing}")
    program = machine.build(tmp_path, "baselines")
    for bits in (1, 2, 3, 4):
        assert machine.run(program, 512, bits, 128).returncode == 0
