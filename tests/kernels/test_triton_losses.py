"""The Triton kernels against the plain twins: in Triton's interpreter on a CPU, compiled where there is CUDA."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch.autograd import grad

from catchment.kernels.dispatch import is_for_triton
from catchment.kernels.drainage_rows import loss_of_indices, plain_loss_of_indices
from catchment.kernels.rows import plain_label_log_odds

pytestmark = pytest.mark.slow

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if ON_CUDA and not IS_INTERPRETED else "cpu"
runs_kernels = pytest.mark.skipif(not (IS_INTERPRETED or ON_CUDA), reason="runs in the interpreter: see the first test")
pytest.importorskip("triton")


@pytest.mark.skipif(IS_INTERPRETED, reason="is the interpreter's run")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 30


def inputs_of(seed, samples, columns, dtype, scale=5.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, columns, generator=generator)
    labels = torch.randint(columns - 1, (samples,), generator=generator)
    upstream = torch.randn(samples, generator=generator)
    return logits.to(DEVICE, dtype), labels.to(DEVICE), upstream.to(DEVICE)


def both(kernel, plain, logits, labels, upstream):
    """Value and gradient of both, the plain twin's in float64."""
    results = []
    for function, z in ((kernel, logits), (plain, logits.double())):
        z = (
            z.detach().requires_grad_()
            if z is not logits
            else logits.detach().as_strided_(logits.shape, logits.stride()).requires_grad_()
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes both sides of a where
            value = function(z, labels)
            gradient = grad(value, z, upstream.to(value.dtype).view(value.shape))[0]
        results.append((value.detach().double(), gradient))
    return results


def drainage(alpha, beta):
    from catchment.kernels import triton_losses

    return (
        lambda z, y: triton_losses.drainage_loss_of_indices(z, y, alpha, beta),
        lambda z, y: plain_loss_of_indices(z, y, alpha, beta),
    )


def log_odds():
    from catchment.kernels import triton_losses

    return triton_losses.label_log_odds, plain_label_log_odds


def assert_alike(results, dtype):
    (value, gradient), (expected, expected_gradient) = results
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=3e-6, atol=3e-6)
    rounding = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=rounding, atol=3e-6)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("columns", [2, 11, 129, 4097])
@pytest.mark.parametrize("make", [lambda: drainage(0.1, 10.0), log_odds], ids=["drainage", "log odds"])
def test_equals_the_plain_twin(make, columns, dtype):
    assert_alike(both(*make(), *inputs_of(1, 3, columns, dtype)), dtype)


@runs_kernels
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (3.0, 0.2), (2.0, 0.0), (0.01, 100.0)])
def test_drainage_with_every_kind_of_weight(alpha, beta):
    assert_alike(both(*drainage(alpha, beta), *inputs_of(2, 8, 6, torch.float32)), torch.float32)


@runs_kernels
@pytest.mark.parametrize("make", [lambda: drainage(0.1, 10.0), log_odds], ids=["drainage", "log odds"])
def test_any_stride(make):
    logits, labels, upstream = inputs_of(3, 4, 20, torch.float32)
    for strided in (logits[:, ::2], logits[:, 3:13], logits.T.contiguous().T[:, :10], logits[::2]):
        n = len(strided)
        labels_here = labels[:n] % (strided.shape[1] - 1)
        assert_alike(both(*make(), strided, labels_here, upstream[:n]), torch.float32)
    kernel, plain = make()
    z = logits.clone().requires_grad_()
    twin = logits.double().requires_grad_()
    gradients = [grad(f(x, labels).sum(), x)[0] for f, x in ((kernel, z), (plain, twin))]  # stride 0 upstream
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=2e-6, atol=3e-6)


@runs_kernels
@pytest.mark.parametrize("margin", [15.0, 60.0, 500.0, -500.0])
@pytest.mark.parametrize("make", [lambda: drainage(0.1, 10.0), log_odds], ids=["drainage", "log odds"])
def test_confident_rows_keep_their_digits(make, margin):
    logits, labels, upstream = inputs_of(4, 6, 30, torch.float32, scale=1.0)
    logits = logits.scatter_add(1, labels[:, None], torch.full_like(logits[:, :1], margin))
    (value, gradient), (expected, exact) = both(*make(), logits, labels, upstream)
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=0)
    at = labels[:, None]
    torch.testing.assert_close(gradient.double().gather(1, at), exact.gather(1, at), rtol=5e-5, atol=1e-37)


@runs_kernels
def test_infinite_logits_and_labels_out_of_range():
    inf = float("inf")
    logits = torch.tensor(
        [[0.0, -inf, 0.0], [0.0, -inf, -inf], [-inf, 0.0, 0.0], [0.0, 1.0, -inf], [1e4, -1e4, 0.0]], device=DEVICE
    )
    labels = torch.zeros(5, dtype=torch.long, device=DEVICE)
    for make in (lambda: drainage(1.0, 1.0), lambda: drainage(1.0, 0.0), log_odds):
        results = both(*make(), logits, labels, torch.ones(5, device=DEVICE))
        torch.testing.assert_close(*[value for value, _ in results], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(*[gradient.double() for _, gradient in results], rtol=1e-6, atol=1e-6)
        assert results[0][1].isfinite().all()
    kernel, _ = drainage(1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert kernel(logits, torch.full_like(labels, 7)).isnan().all()


@runs_kernels
def test_its_gradient_can_be_differentiated():
    logits, labels, _ = inputs_of(5, 3, 5, torch.float32)
    for kernel, plain in (drainage(0.5, 2.0), log_odds()):
        seconds = []
        for function, z in ((kernel, logits.clone()), (plain, logits.clone())):
            z.requires_grad_()
            (first,) = grad(function(z, labels).sum(), z, create_graph=True)
            seconds.append(grad(first.square().sum(), z)[0])
        torch.testing.assert_close(seconds[0], seconds[1], rtol=1e-5, atol=1e-6)


@runs_kernels
def test_an_empty_batch():
    kernel, _ = drainage(1.0, 1.0)
    logits = torch.zeros(0, 4, device=DEVICE, requires_grad=True)
    value = kernel(logits, torch.zeros(0, dtype=torch.long, device=DEVICE))
    assert value.shape == (0,)
    assert grad(value.sum(), logits)[0].shape == (0, 4)


def test_only_cuda_tensors_of_two_dims_go_to_triton():
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert not is_for_triton(logits, labels)
    if ON_CUDA:
        assert is_for_triton(logits.cuda(), labels.cuda())
        assert not is_for_triton(logits.cuda().double(), labels.cuda())
        assert not is_for_triton(logits.cuda()[..., None], labels.cuda()[..., None])


@pytest.mark.skipif(IS_INTERPRETED, reason="compiles")
@pytest.mark.parametrize("is_drainage", [True, False])
def test_compiles_without_a_device(is_drainage):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from catchment.kernels import triton_losses

    pointers = {"logits": "*bf16", "labels": "*i64", "numbers": "*fp32"}
    sizes = {"samples": "i32", "columns": "i32", "stride_sample": "i64"}
    kernels = {
        triton_losses._forward_kernel: {
            **pointers, "loss": "*fp32", **sizes, "log_alpha": "fp32", "log_beta": "fp32",
            "stride_column": 1, "DRAINAGE": is_drainage, "HAS_BETA": is_drainage, "BLOCK": 1024,
        },
        triton_losses._backward_kernel: {
            **pointers, "grad_loss": "*fp32", "grad": "*bf16", **sizes,
            "stride_column": 1, "stride_grad_loss": 1, "DRAINAGE": is_drainage, "BLOCK": 1024,
        },
    }  # fmt: skip
    for kernel, arguments in kernels.items():
        kinds = {name: arguments[name] for name in kernel.arg_names}
        constants = {name: value for name, value in kinds.items() if not isinstance(value, str)}
        signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
        source = ASTSource(kernel, signature, constants)
        assert ".entry" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@pytest.mark.skipif(not ON_CUDA or IS_INTERPRETED, reason="needs CUDA")
def test_a_cuda_graph_holds_forward_and_backward():
    logits, labels, upstream = inputs_of(6, 64, 1001, torch.bfloat16)
    logits.requires_grad_()

    def step():
        return grad(loss_of_indices(logits, labels, 0.1, 10.0), logits, upstream)[0]

    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)
