"""The Triton kernels of quantile activation are their plain twins, in the interpreter or on CUDA."""

import os
import re
import subprocess
import sys

import pytest
import torch

from catchment.kernels import quantile_cells, quantile_table

pytestmark = pytest.mark.slow

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if ON_CUDA and not IS_INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(not (IS_INTERPRETED or ON_CUDA), reason="runs in the interpreter: see the first test")
triton = pytest.importorskip("triton")


@pytest.mark.skipif(IS_INTERPRETED, reason="is the interpreter's run")
@pytest.mark.skipif(triton.__version__.startswith("3.2."), reason="its interpreter gives histograms of another type")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 12


def values(*shape):
    """Channels that are normal, half equal, with missing and infinite values and zeros, and far from zero."""
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = x.transpose(0, 1).reshape(shape[1], -1)
    flat[1, ::2] = -0.37
    flat[2, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e8])
    flat[2, 4:40] = 0.0
    flat[3] += 100
    return flat.view(shape[1], shape[0], *shape[2:]).transpose(0, 1).contiguous().to(DEVICE)


SHAPES = [(40, 4, 11, 13), (9001, 5), (3, 4, 2000)]


@runs_kernels
@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_are_their_plain_twins(shape, p):
    from catchment.kernels import quantile_triton

    x = values(*shape)
    coarse = quantile_cells.count_coarse(x)
    assert torch.equal(quantile_triton.count_coarse(x), coarse)
    key, fine = quantile_cells.refine(x, coarse, p)
    found_key, found_fine = quantile_triton.refine(x, coarse, p)
    assert torch.equal(found_key, key)
    assert torch.equal(found_fine, fine)
    bandwidth = torch.linspace(0.3, 0.7, shape[1], device=DEVICE).unsqueeze(1)
    cdf, density = quantile_cells.tables(coarse, fine, bandwidth, p)
    found_cdf, found_density = quantile_triton.tables(coarse, fine, bandwidth, p)
    torch.testing.assert_close(found_cdf, cdf, rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(found_density, density, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(
        quantile_triton.look_up(cdf, key).nan_to_num(-1), quantile_cells.look_up(cdf, key).nan_to_num(-1)
    )
    torch.testing.assert_close(
        quantile_triton.look_up(density, key, x), quantile_cells.look_up(density, key, x), equal_nan=True
    )


@runs_kernels
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_activation_and_gradient_by_the_kernels(memory_format, monkeypatch):
    from catchment.kernels import quantile_triton
    from catchment.quantile import quantile_activation

    x = values(40, 4, 11, 13).contiguous(memory_format=memory_format)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    results = []
    for loops in (quantile_cells, quantile_triton):
        monkeypatch.setattr(quantile_table, "_loops", lambda x, loops=loops: loops)
        inputs = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = quantile_activation(inputs, method="table")
        assert out.stride() == x.stride()
        results.append((out.detach(), torch.autograd.grad(out, inputs, upstream)[0]))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@runs_kernels
def test_shards_add_up_and_runs_repeat():
    from catchment.kernels import quantile_triton

    x = values(40, 4, 11, 13)
    coarse = quantile_triton.count_coarse(x)
    assert torch.equal(quantile_triton.count_coarse(x[:17]) + quantile_triton.count_coarse(x[17:]), coarse)
    fine = quantile_triton.refine(x, coarse, 0.5)[1]
    shards = [quantile_triton.refine(part, coarse, 0.5)[1] for part in (x[:17], x[17:])]
    assert torch.equal(shards[0] + shards[1], fine)
    bandwidth = torch.full((4, 1), 0.5, device=DEVICE)
    twice = [quantile_triton.tables(coarse, fine, bandwidth, 0.5) for _ in range(2)]
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(*twice, strict=True))


@runs_kernels
def test_many_programs_count_together(monkeypatch):
    from catchment.kernels import quantile_triton

    monkeypatch.setattr(quantile_triton, "_TILE", 256)
    for programs in (1, 7, 500):
        monkeypatch.setattr(quantile_triton, "_PROGRAMS", programs)
        x = values(23, 4, 9, 7)
        coarse = quantile_cells.count_coarse(x)
        assert torch.equal(quantile_triton.count_coarse(x), coarse)
        assert torch.equal(quantile_triton.refine(x, coarse, 0.5)[1], quantile_cells.refine(x, coarse, 0.5)[1])


@runs_kernels
def test_an_operator_says_what_it_gives():
    from catchment.kernels import quantile_triton

    x = values(40, 4, 11, 13)
    coarse = quantile_cells.count_coarse(x)
    bandwidth = torch.full((4, 1), 0.5, device=DEVICE)
    key, fine = quantile_triton.refine(x, coarse, 0.5)
    density = quantile_triton.tables(coarse, fine, bandwidth, 0.5)[1]
    for operator, arguments in (
        (quantile_triton.count_coarse, (x,)),
        (quantile_triton.refine, (x.contiguous(memory_format=torch.channels_last), coarse, 0.5)),
        (quantile_triton.tables, (coarse, fine, bandwidth, 0.5)),
        (quantile_triton.look_up, (density, key, x)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_which_code_serves_a_tensor():
    assert quantile_table._loops(torch.zeros(1, dtype=torch.float64)) is quantile_cells
    if ON_CUDA:
        assert quantile_table._loops(torch.zeros(1, device="cuda")).__name__.endswith("quantile_triton")


KERNELS = {
    "_count_kernel": {"x": "*fp32", "counts": "*i32"},
    "_cells_kernel": {"coarse": "*i32", "cells": "*i32", "negative_mass": "fp32"},
    "_refine_kernel": {"x": "*fp32", "cells": "*i32", "key": "*i16", "counts": "*i32"},
    "_cdf_kernel": {
        "cells": "*i32", "fine": "*i32", "bandwidth": "*fp32", "negative_mass": "fp32", "cdf": "*fp32",
        "position": "*fp32", "mass": "*i64",
    },
    "_density_kernel": {"cdf": "*fp32", "position": "*fp32", "nodes": "*fp32", "density": "*fp32"},
    "_look_up_kernel": {"table": "*fp32", "key": "*i16", "grad": "*fp32", "out": "*fp32", "HAS_GRAD": True},
}  # fmt: skip


@pytest.mark.skipif(IS_INTERPRETED, reason="compiles")
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_a_device(name):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from catchment.kernels import quantile_triton

    kernel = getattr(quantile_triton, name)
    arguments = {argument: KERNELS[name].get(argument, "i32") for argument in kernel.arg_names} | (
        {"TILE": quantile_triton._TILE} if "TILE" in kernel.arg_names else {}
    )
    constants = {argument: value for argument, value in arguments.items() if not isinstance(value, str)}
    signature = {argument: "constexpr" if argument in constants else kind for argument, kind in arguments.items()}
    source, options = ASTSource(kernel, signature, constants), {"num_warps": quantile_triton._WARPS}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert ".entry" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 48 << 10  # what every GPU has
