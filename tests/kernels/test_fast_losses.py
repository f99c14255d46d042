"""The compiled loops of the CPU against their plain twins."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from catchment.kernels import class_terms, drainage_rows, losses_cpu, native, rows
from catchment.kernels.class_terms import (
    COUNT,
    LOG,
    P_LOG_P,
    SQUARE,
    focal_above,
    focal_log,
    log_above,
    shortfall,
)

INF = math.inf
SHAPES = [(1, 2), (7, 3), (5, 17), (3, 1001), (64, 10), (2, 5, 3), (2, 4, 3, 1), (1, 1)]
TERMS = {
    term.name: term
    for term in (
        LOG,
        SQUARE,
        P_LOG_P,
        shortfall(0.05),
        log_above(0.01),
        focal_log(0.5),
        focal_log(2.0),
        focal_above(0.5, 1e-3),
    )
}
compiled_only = pytest.mark.skipif(not native.is_compiled("losses_cpu.cpp"), reason="there is no C++ compiler")

# Their gradient is not their derivative, by definition.
DETACHED = {
    term.name: term for term in (focal_log(0.5, detach_factor=True), focal_above(0.5, 1e-3, detach_factor=True))
}


def logits_of(seed, *shape, scale=3.0, dtype=torch.float64):
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def labels_of(seed, high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def with_margin(logits, labels, margin):
    return logits.scatter_add(1, labels.unsqueeze(1), torch.full_like(logits[:, :1], margin))


def drainage(logits, labels):
    return (drainage_rows.loss_of_indices(logits, labels, 0.1, 10.0),)


def plain_drainage(logits, labels):
    return (drainage_rows.plain_loss_of_indices(logits, labels, 0.1, 10.0),)


def log_odds(logits, labels):
    return (rows.label_log_odds(logits, labels),)


def plain_log_odds(logits, labels):
    return (rows.plain_label_log_odds(logits, labels),)


def sums(logits, labels):
    return rows.label_log_odds_and_sums(logits, labels, tuple(TERMS.values()))


def plain_sums(logits, labels):
    return rows.plain_label_log_odds_and_sums(logits, labels, tuple(TERMS.values()))


def detached_sums(logits, labels):
    return rows.label_log_odds_and_sums(logits, labels, tuple(DETACHED.values()))


def plain_detached_sums(logits, labels):
    return rows.plain_label_log_odds_and_sums(logits, labels, tuple(DETACHED.values()))


TWINS = [
    pytest.param(drainage, plain_drainage, id="drainage"),
    pytest.param(log_odds, plain_log_odds, id="log odds"),
    pytest.param(sums, plain_sums, id="log odds and sums"),
]


def values_and_gradient(function, logits, labels, seed=9):
    """What it gives, and the gradient for one random upstream gradient of all of it."""
    logits = logits.detach().clone().requires_grad_()
    values = function(logits, labels)
    upstream = [logits_of(seed + i, *value.shape, scale=1.0).to(value.dtype) for i, value in enumerate(values)]
    return [value.detach() for value in values], grad(values, logits, upstream)[0]


def outputs(logits, function):
    return logits.shape[1] - 1 if function in (drainage, plain_drainage) else logits.shape[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("margin", [0.0, 15.0, 40.0, 90.0, 200.0, -90.0])
@pytest.mark.parametrize(
    ("fast", "plain"), [*TWINS, pytest.param(detached_sums, plain_detached_sums, id="detached sums")]
)
def test_equals_its_plain_twin(fast, plain, shape, margin):
    samples, columns, *spatial = shape
    logits = logits_of(1, samples, columns + 1, *spatial)
    labels = labels_of(1, outputs(logits, fast), samples, *spatial)
    logits = with_margin(logits, labels, margin)
    expected = values_and_gradient(plain, logits, labels)
    got = values_and_gradient(fast, logits, labels)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    in_float32 = values_and_gradient(fast, logits.float(), labels)
    assert in_float32[1].dtype == torch.float32
    # the logits themselves are rounded to 2^-24 of their size
    tolerance = 4e-6 * max(1.0, abs(margin) / 10)
    torch.testing.assert_close(
        ([value.double() for value in in_float32[0]], in_float32[1].double()),
        expected,
        rtol=tolerance,
        atol=tolerance * columns,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_half_precision_is_computed_in_float32(fast, plain, dtype):
    logits = logits_of(2, 30, 11).to(dtype)
    labels = labels_of(2, 10, 30)
    values, gradient = values_and_gradient(fast, logits, labels)
    wide_values, wide_gradient = values_and_gradient(fast, logits.float(), labels)
    assert values[0].dtype == torch.float32
    assert gradient.dtype == dtype
    assert all(torch.equal(value, wide) for value, wide in zip(values, wide_values, strict=True))
    assert torch.equal(gradient, wide_gradient.to(dtype))


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_infinite_and_huge_logits(fast, plain):
    logits = torch.tensor(
        [
            [0.0, -INF, 1.0, 0.5],
            [0.0, -INF, -INF, 0.5],
            [1e4, -1e4, 0.0, 5.0],
            [-1e4, 1e4, 0.0, 5.0],
            [8000.0, 8001.0, 8003.0, 8000.5],
            [0.3, 0.2, 0.1, 0.0],
        ],
        dtype=torch.float64,
    )
    labels = torch.zeros(6, dtype=torch.long)
    got, expected = (values_and_gradient(function, logits, labels) for function in (fast, plain))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    assert got[1].isfinite().all()
    assert (got[1][:2, 1] == 0).all()
    assert got[1][1, 2] == 0


def test_log_odds_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]], dtype=torch.float64).log()
    got = rows.label_log_odds(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(got, torch.tensor([[1.0], [3 / 7]], dtype=torch.float64).log(), rtol=0, atol=1e-15)
    _, gradient = values_and_gradient(lambda z, y: (rows.label_log_odds(z, y).sum(),), logits, torch.tensor([0, 1]))
    scale = gradient[0, 0] / -1
    expected = torch.tensor([[-1.0, 0.5, 0.5], [1 / 3, -1.0, 2 / 3]], dtype=torch.float64)
    torch.testing.assert_close(gradient / scale, expected, rtol=1e-13, atol=0)


def test_sums_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    terms = (LOG, SQUARE, P_LOG_P, shortfall(0.25), log_above(0.25))
    _, *got = rows.label_log_odds_and_sums(p.log(), torch.tensor([0]), terms)
    log3, log2 = math.log(0.3), math.log(0.2)
    expected = [log3 + log2, 0.13, 0.3 * log3 + 0.2 * log2, 0.05, math.log(0.3 / 0.25)]
    assert [value.item() for value in got] == pytest.approx(expected, rel=1e-13)


def test_count_leaves_out_absent_classes_and_the_label():
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, -INF, 2.0], [0.0, -INF, -INF]], requires_grad=True)
    log_odds, count, _ = rows.label_log_odds_and_sums(logits, torch.tensor([0, 0, 0]), (COUNT, LOG))
    assert count.tolist() == [[2.0], [1.0], [0.0]]
    assert (grad(count.sum() + 0 * log_odds[:2].sum(), logits)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_class_is_the_first_of_the_largest(dtype):
    for shape in SHAPES:
        logits = logits_of(19, *shape, dtype=dtype)
        for other in (logits, logits.transpose(0, 1)):
            assert torch.equal(rows.top_class(other), other.argmax(1))
    logits = torch.tensor([[1.0, 2.0, 2.0], [-INF, -INF, -INF], [-1.0, -3.0, -INF]], dtype=dtype)
    assert rows.top_class(logits).tolist() == [1, 0, 0]
    assert 0 <= rows.top_class(torch.full((1, 3), math.nan, dtype=dtype)).item() < 3


def test_label_at_minus_infinity_is_infinitely_unlikely():
    logits = torch.tensor([[-INF, 0.0, 1.0]])
    assert rows.label_log_odds(logits, torch.tensor([0])).item() == INF
    assert rows.label_log_odds(logits[:, [1, 0]], torch.tensor([0])).item() == -INF


@pytest.mark.parametrize("name", [*TERMS, *DETACHED])
@pytest.mark.parametrize("margin", [0.0, 30.0, -30.0])
def test_each_term_alone(name, margin):
    term = (TERMS | DETACHED)[name]
    labels = labels_of(3, 300, 40)
    logits = with_margin(logits_of(3, 40, 300), labels, margin)
    logits[:5, 7] = -INF
    got = values_and_gradient(lambda z, y: rows.label_log_odds_and_sums(z, y, (term,))[1:], logits, labels)
    plain = values_and_gradient(lambda z, y: rows.plain_label_log_odds_and_sums(z, y, (term,))[1:], logits, labels)
    torch.testing.assert_close(got, plain, rtol=1e-11, atol=1e-13)


@compiled_only
@pytest.mark.parametrize("margin", [0.0, 15.0, 40.0])
@pytest.mark.parametrize("columns", [11, 1000, 20000])
def test_float32_keeps_its_digits(margin, columns):
    labels = labels_of(15, columns - 1, 8)
    logits = with_margin(logits_of(15, 8, columns, dtype=torch.float32), labels, margin)
    # 1 - p is rounded to 2^-24, which counts where p is near 1
    smallest = 2e-7 if columns == 11 else 0.0

    for term in (LOG, SQUARE, P_LOG_P, shortfall(1e-3), focal_log(0.5), focal_log(2.0), None):

        def function(z, y, term=term):
            return drainage(z, y) if term is None else rows.label_log_odds_and_sums(z, y, (term,))[1:]

        (value, gradient), (exact, exact_gradient) = (
            values_and_gradient(function, z, labels) for z in (logits, logits.double())
        )
        torch.testing.assert_close(value[0].double(), exact[0], rtol=2e-6, atol=smallest)
        size = exact_gradient.abs().amax(1, keepdim=True) + exact[0].view(-1, 1).abs()
        assert ((gradient.double() - exact_gradient).abs() <= 2e-6 * size + smallest).all()


@compiled_only
@pytest.mark.parametrize("twins", [(drainage, plain_drainage), (sums, plain_sums)], ids=["drainage", "sums"])
def test_a_label_out_of_range_gives_nan(twins):
    fast, _ = twins
    logits, labels = logits_of(16, 3, 5), torch.tensor([1, 5, -1])
    values, gradient = values_and_gradient(fast, logits, labels)
    for value in (*(value.squeeze() for value in values), gradient.sum(1)):
        assert value.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_nan_logits_give_nan_in_their_row_alone(fast, plain):
    logits, labels = logits_of(17, 4, 6, dtype=torch.float32), torch.tensor([0, 1, 2, 3])
    logits[1, 1] = logits[2, 0] = math.nan  # at the label and beside it
    values, gradient = values_and_gradient(fast, logits, labels)
    expected, _ = values_and_gradient(plain, logits, labels)
    for value, other in zip(values, expected, strict=True):
        assert value.isnan().view(4).tolist() == other.isnan().view(4).tolist()
    assert values[0].isnan().view(4).tolist() == [False, True, True, False]
    assert gradient[2].isnan().any()
    assert gradient[[0, 3]].isfinite().all()


def test_a_name_tells_terms_apart():
    assert len(TERMS | DETACHED) == 10
    assert log_above(1e-7).name == log_above(1e-7).name != log_above(1e-6).name
    assert len({term.code for term in (COUNT, *TERMS.values(), *DETACHED.values())}) == 11


@pytest.mark.parametrize(("fast", "plain"), TWINS)
@pytest.mark.parametrize("margin", [0.0, 800.0])
def test_first_and_second_derivatives_are_exact(fast, plain, margin):
    labels = labels_of(4, 3, 3)
    logits = with_margin(logits_of(4, 3, 4, scale=1.0), labels, margin).requires_grad_()
    assert gradcheck(lambda z: fast(z, labels), logits)
    assert gradgradcheck(lambda z: fast(z, labels), logits)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_a_second_pass_gives_the_same_bits_and_its_own_memory(fast, plain):
    logits, labels = logits_of(5, 9, 8, dtype=torch.float32).requires_grad_(), labels_of(5, 7, 9)
    before = logits.detach().clone()
    values = fast(logits, labels)
    upstream = [torch.ones_like(value) for value in values]
    first = grad(values, logits, upstream, retain_graph=True)[0]
    kept = first.clone()
    second = grad(values, logits, upstream)[0]
    assert torch.equal(second, kept)
    second.zero_()
    assert torch.equal(first, kept)
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_batched_gradients_equal_one_at_a_time(fast, plain):
    logits, labels = logits_of(6, 3, 5).requires_grad_(), labels_of(6, 4, 3)
    values = fast(logits, labels)
    upstream = [logits_of(60 + i, 4, *value.shape, scale=1.0) for i, value in enumerate(values)]
    together = grad(values, logits, upstream, is_grads_batched=True, retain_graph=True)[0]
    for i in range(4):
        alone = grad(values, logits, [u[i] for u in upstream], retain_graph=True)[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_torch_func_goes_through_the_plain_twin(fast, plain):
    logits, labels = logits_of(7, 4, 5), labels_of(7, 4, 4)

    def total(function):
        return lambda z, y: sum(value.sum() for value in function(z[None], y[None]))

    got = torch.func.vmap(torch.func.grad(total(fast)))(logits, labels)
    torch.testing.assert_close(got, torch.func.vmap(torch.func.grad(total(plain)))(logits, labels), rtol=0, atol=0)
    torch.testing.assert_close(got.sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_memory_layout_does_not_matter(fast, plain):
    logits, labels = logits_of(8, 6, 14), labels_of(8, 6, 6)
    wide = logits[:, ::2]
    expected = values_and_gradient(fast, wide.contiguous(), labels)
    part_of_rows = torch.cat([wide, wide], 1)[:, :7]
    for other in (wide, wide.T.contiguous().T, part_of_rows):
        assert not other.is_contiguous()
        leaf = other.requires_grad_() if other.is_leaf else other
        values = fast(leaf, labels.repeat_interleave(2)[::2])
        upstream = [logits_of(9 + i, *value.shape, scale=1.0) for i, value in enumerate(values)]
        upstream = [torch.stack([u, u], -1)[..., 0] for u in upstream]
        got = [value.detach() for value in values], grad(values, leaf, upstream)[0]
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_expanded_upstream_gradients(fast, plain):
    logits, labels = logits_of(18, 6, 5).requires_grad_(), labels_of(18, 4, 6)
    got, expected = (grad(sum(value.sum() for value in f(logits, labels)), logits)[0] for f in (fast, plain))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_an_empty_batch(fast, plain):
    values, gradient = values_and_gradient(fast, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert all(value.numel() == 0 for value in values)
    assert gradient.shape == (0, 4)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_training_goes_on_after_evaluating_in_inference_mode(fast, plain):
    logits, labels = logits_of(13, 9, 8, dtype=torch.float32), labels_of(13, 7, 9)
    with torch.inference_mode():
        evaluated = fast(logits, labels)
    values, gradient = values_and_gradient(fast, logits, labels)
    assert all(torch.equal(value, other) for value, other in zip(values, evaluated, strict=True))
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_threads_do_not_matter(fast, plain, monkeypatch):
    logits, labels = logits_of(10, 23, 7, dtype=torch.float32), labels_of(10, 6, 23)
    expected = values_and_gradient(fast, logits, labels)
    for number in (2, 3, 64):
        monkeypatch.setattr(losses_cpu, "_threads", lambda rows, n=number: n)
        torch.testing.assert_close(values_and_gradient(fast, logits, labels), expected, rtol=0, atol=0)


def test_threads_are_for_large_inputs(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    sizes = [(128, 10), (128, 1000), (1024, 1000), (0, 5)]
    assert [losses_cpu._threads(torch.empty(*size, device="meta")) for size in sizes] == [1, 1, 8, 1]


# Speed, by what decides it


def large_allocations(run, size):
    """How many blocks of at least ``size`` bytes a call takes."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() >= size for event in events)


@compiled_only
@pytest.mark.parametrize(("fast", "plain"), TWINS)
@pytest.mark.parametrize("margin", [0.0, 15.0, 200.0])
def test_forward_and_backward_take_one_array_of_the_size_of_the_logits(fast, plain, margin):
    labels = labels_of(12, 999, 512)
    logits = with_margin(logits_of(12, 512, 1000, dtype=torch.float32), labels, margin).requires_grad_()
    upstream = torch.rand(512)

    def step(function):
        values = function(logits, labels)
        return lambda: grad(function(logits, labels), logits, [upstream.view(value.shape) for value in values])

    size = logits.numel() * 4
    assert large_allocations(step(fast), size) == 1
    reference = large_allocations(lambda: F.cross_entropy(logits, labels).backward(inputs=[logits]), size)
    assert reference >= 3
    assert large_allocations(step(plain), size) > reference


# Without a compiler


def test_without_compiled_loops_the_plain_twins_run():
    program = """
import torch
from catchment.kernels import drainage_rows, losses_cpu, rows
logits, labels = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 1, 2])
assert not losses_cpu.serves(logits, labels)
loss = drainage_rows.loss_of_indices(logits, labels, 0.1, 10.0)
assert torch.equal(loss, drainage_rows.plain_loss_of_indices(logits, labels, 0.1, 10.0))
assert torch.equal(rows.label_log_odds(logits, labels), rows.plain_label_log_odds(logits, labels))
assert torch.autograd.grad(loss.sum(), logits)[0].sum(1).abs().max() < 1e-6
"""
    environment = {**os.environ, "CATCHMENT_COMPILE": "0"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)


def test_without_a_compiler_there_are_no_compiled_loops(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert native._load("losses_cpu.cpp") is None


@compiled_only
def test_a_source_is_compiled_once(monkeypatch, tmp_path):
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = native._load("answer.cpp")
    assert library.answer() == 42
    built = list((tmp_path / "cache" / "catchment").iterdir())
    assert [path.name[:7] for path in built] == ["answer-"]
    with monkeypatch.context() as patch:
        patch.setattr(native.subprocess, "run", lambda *args, **options: pytest.fail("compiled again"))
        assert native._load("answer.cpp").answer() == 42
    source.write_text("not C++")
    assert native._load("answer.cpp") is None
    source.write_text('extern "C" int answer() { return 43; }')
    assert native._load("answer.cpp").answer() == 43


# Training


def train(function, steps=40):
    torch.manual_seed(0)
    inputs, labels = torch.randn(200, 8), torch.arange(200) % 4
    inputs[:, :4] += 2 * F.one_hot(labels, 4)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(steps):
        first, *others = function(net(inputs), labels)
        if function in (drainage, plain_drainage):
            loss = first.mean()
        else:  # cross-entropy from the log odds; with sums, normalised by sum_k log p_k
            own = F.softplus(first)
            loss = (own / (own - others[0])).mean() if others else own.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_a_net_trains_alike_with_both(fast, plain):
    curve, expected = train(fast), train(plain)
    assert curve == pytest.approx(expected, rel=1e-3)
    assert curve[:10] == pytest.approx(expected[:10], rel=2e-6)
    assert curve[-1] < 0.5 * curve[0]


def test_every_term_is_tested():
    found = {name for name, value in vars(class_terms).items() if isinstance(value, class_terms.ClassTerm)}
    assert found == {"COUNT", "LOG", "SQUARE", "P_LOG_P"}
