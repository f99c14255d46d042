"""The Triton kernels of the sums over classes against their plain twin, in the interpreter or on CUDA."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch.autograd import grad

from catchment.kernels import class_terms
from catchment.kernels.rows import label_log_odds_and_sums, plain_label_log_odds_and_sums

pytestmark = pytest.mark.slow

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if ON_CUDA and not IS_INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(not (IS_INTERPRETED or ON_CUDA), reason="runs in the interpreter: see the first test")
triton = pytest.importorskip("triton")

TERMS = {
    "log p": (class_terms.LOG,),
    "p^2": (class_terms.SQUARE,),
    "p log p": (class_terms.P_LOG_P,),
    "shortfall": (class_terms.shortfall(0.05),),
    "log above": (class_terms.log_above(1e-3),),
    "focal, root": (class_terms.focal_log(0.5),),
    "focal": (class_terms.focal_log(2.0),),
    "focal, detached": (class_terms.focal_log(0.5, detach_factor=True),),
    "focal above": (class_terms.focal_above(0.5, 1e-3),),
    "focal above, detached": (class_terms.focal_above(2.0, 1e-3, detach_factor=True),),
    "log p, count": (class_terms.LOG, class_terms.COUNT),
    "three": (class_terms.SQUARE, class_terms.focal_log(0.5), class_terms.P_LOG_P),
}
every_term = pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)


@pytest.mark.skipif(IS_INTERPRETED, reason="is the interpreter's run")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 60


def inputs_of(samples, classes, dtype=torch.float32, scale=5.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    return logits.to(DEVICE, dtype), labels.to(DEVICE)


def outcome(function, logits, labels, terms, upstream):
    """The numbers, and the gradient by the logits."""
    logits = logits.detach().as_strided_(logits.shape, logits.stride()).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes both sides of a where
        numbers = function(logits, labels, terms)
        of_logits = [(n, u.to(n.dtype)) for n, u in zip(numbers, upstream, strict=True) if n.requires_grad]
        gradient = grad([n for n, _ in of_logits], logits, [u for _, u in of_logits])[0]
    return [n.detach() for n in numbers], gradient


def assert_alike(logits, labels, terms, tolerance=3e-6):
    from catchment.kernels import triton_sums

    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(len(logits), 1, generator=generator).to(DEVICE) for _ in range(1 + len(terms))]
    numbers, gradient = outcome(triton_sums.label_log_odds_and_sums, logits, labels, terms, upstream)
    expected, exact = outcome(plain_label_log_odds_and_sums, logits.double(), labels, terms, upstream)
    assert gradient.dtype == logits.dtype
    for found, right in zip(numbers, expected, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=3e-6, atol=3e-6)
    rounding = {torch.float32: tolerance, torch.float16: 2**-10, torch.bfloat16: 2**-7}[logits.dtype]
    torch.testing.assert_close(gradient.double(), exact, rtol=rounding, atol=tolerance)


@runs_kernels
@every_term
@pytest.mark.parametrize("classes", [2, 37, 4100])
def test_equals_the_plain_twin(terms, classes):
    assert_alike(*inputs_of(3, classes), terms)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["log p", "three"])
def test_half_precision(name, dtype):
    assert_alike(*inputs_of(4, 130, dtype), TERMS[name])


@runs_kernels
def test_any_stride():
    logits, labels = inputs_of(4, 20)
    for strided in (logits[:, ::2], logits[:, 3:13], logits.T.contiguous().T[:, :10]):
        assert_alike(strided, labels % 10, TERMS["three"])


@runs_kernels
@every_term
@pytest.mark.parametrize("margin", [15.0, 60.0, -15.0, -60.0])
def test_confident_rows_keep_their_digits(terms, margin):
    logits, labels = inputs_of(4, 30, scale=1.0)
    logits = logits.scatter_add(1, labels[:, None], torch.full_like(logits[:, :1], margin))
    assert_alike(logits, labels, terms, tolerance=2e-5)


@runs_kernels
@every_term
def test_classes_that_are_masked(terms):
    logits, labels = inputs_of(5, 8)
    logits[0, 3] = -torch.inf
    logits[1, 1:] = -torch.inf
    labels = torch.where(logits.gather(1, labels[:, None])[:, 0].isneginf(), 0, labels)
    assert_alike(logits, labels, terms)


@runs_kernels
@every_term
def test_a_label_out_of_range_gives_nan(terms):
    from catchment.kernels import triton_sums

    logits, labels = inputs_of(2, 6)
    labels[1] = 6
    numbers, gradient = outcome(
        triton_sums.label_log_odds_and_sums, logits, labels, terms, [torch.ones(2, 1, device=DEVICE)] * (1 + len(terms))
    )
    assert gradient[1].isnan().all()
    assert gradient[0].isfinite().all()
    for number in numbers:
        assert number.isnan().flatten().tolist() == [False, True]


@runs_kernels
def test_its_gradient_can_be_differentiated():
    from catchment.kernels import triton_sums

    logits, labels = inputs_of(3, 5, scale=1.0)
    seconds = []
    for function in (triton_sums.label_log_odds_and_sums, plain_label_log_odds_and_sums):
        z = logits.clone().requires_grad_()
        (first,) = grad(sum(n.sum() for n in function(z, labels, TERMS["three"])), z, create_graph=True)
        seconds.append(grad(first.square().sum(), z)[0])
    torch.testing.assert_close(*seconds, rtol=1e-5, atol=1e-6)


@runs_kernels
def test_an_empty_batch():
    from catchment.kernels import triton_sums

    logits = torch.zeros(0, 4, device=DEVICE, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long, device=DEVICE)
    numbers = triton_sums.label_log_odds_and_sums(logits, labels, TERMS["three"])
    assert [number.shape for number in numbers] == [(0, 1)] * 4
    assert grad(numbers[1].sum(), logits)[0].shape == (0, 4)


@pytest.mark.skipif(not ON_CUDA or IS_INTERPRETED, reason="needs CUDA")
def test_cuda_tensors_take_the_kernels(monkeypatch):
    from catchment.kernels import triton_sums

    monkeypatch.setattr(triton_sums, "label_log_odds_and_sums", lambda logits, labels, terms: "taken")
    logits, labels = inputs_of(4, 10)
    assert label_log_odds_and_sums(logits, labels, TERMS["three"]) == "taken"
    assert label_log_odds_and_sums(logits, labels, 2 * TERMS["three"]) != "taken"
    assert label_log_odds_and_sums(logits.double(), labels, TERMS["three"]) != "taken"


@pytest.mark.skipif(IS_INTERPRETED, reason="compiles")
@pytest.mark.parametrize("kinds", [(6, -1, -1), (7, 1, 0), (2, 6, 3), (4, 5, -1)])
def test_compiles_without_a_device(kinds):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from catchment.kernels import triton_sums

    types = {
        "logits": "*bf16",
        "labels": "*i64",
        "grad": "*bf16",
        "stride_column": 1,
        "stride_sample": "i64",
        "BLOCK": 1024,
    }
    types |= dict.fromkeys(("log_odds", "numbers", "sums", "upstream"), "*fp32")
    types |= {"samples": "i32", "classes": "i32"} | {f"KIND{i}": kind for i, kind in enumerate(kinds)}
    for kernel in (triton_sums._sums_kernel, triton_sums._gradient_kernel):
        arguments = {name: types.get(name, "fp32") for name in kernel.arg_names}
        constants = {name: value for name, value in arguments.items() if not isinstance(value, str)}
        signature = {name: "constexpr" if name in constants else kind for name, kind in arguments.items()}
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        assert ".entry" in compiled.asm["ptx"]
