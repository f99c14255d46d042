"""The closed-form functions of the CPU against their plain twins."""

import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from catchment.kernels import class_terms, drainage_rows, rivals, rows
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


def test_label_at_minus_infinity_is_infinitely_unlikely():
    logits = torch.tensor([[-INF, 0.0, 1.0]])
    assert rows.label_log_odds(logits, torch.tensor([0])).item() == INF
    assert rows.label_log_odds(logits[:, [1, 0]], torch.tensor([0])).item() == -INF


@pytest.mark.parametrize("name", [*TERMS, *DETACHED])
def test_slope_is_the_derivative(name):
    term = (TERMS | DETACHED)[name]
    log_p = logits_of(3, 40, 6, dtype=torch.float64).log_softmax(1).requires_grad_()
    value = term.value(log_p, log_p.exp())
    (expected,) = grad(value.sum(), log_p)
    log_p = log_p.detach()
    p, out, spare = log_p.exp(), torch.empty_like(log_p), torch.empty_like(log_p)
    # 1 - p is rounded to eps
    torch.testing.assert_close(term.slope_into(log_p, p, out, spare), expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(term.value_into(log_p, p, out), value.detach(), rtol=1e-13, atol=1e-14)
    assert torch.equal(p, log_p.exp())


def test_a_name_tells_terms_apart():
    assert len(TERMS | DETACHED) == 10
    assert log_above(1e-7).name == log_above(1e-7).name != log_above(1e-6).name


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
    for other in (wide, wide.T.contiguous().T):
        assert not other.is_contiguous()
        torch.testing.assert_close(values_and_gradient(fast, other, labels), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_an_empty_batch(fast, plain):
    values, gradient = values_and_gradient(fast, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert all(value.numel() == 0 for value in values)
    assert gradient.shape == (0, 4)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_training_goes_on_after_evaluating_in_inference_mode(fast, plain, monkeypatch):
    monkeypatch.setattr(rows._Scratch, "_kept", threading.local())
    logits, labels = logits_of(13, 9, 8, dtype=torch.float32), labels_of(13, 7, 9)
    with torch.inference_mode():
        evaluated = fast(logits, labels)
    values, gradient = values_and_gradient(fast, logits, labels)
    assert all(torch.equal(value, other) for value, other in zip(values, evaluated, strict=True))
    assert gradient.abs().sum() > 0


def test_rows_at_a_time_do_not_matter(monkeypatch):
    logits, labels = logits_of(10, 23, 7, dtype=torch.float32), labels_of(10, 7, 23)
    expected = values_and_gradient(sums, logits, labels)
    monkeypatch.setattr(rows, "_ELEMENTS_OF_ONE_THREAD", 20)
    monkeypatch.setattr(rows, "_ELEMENTS_OF_SEVERAL_THREADS", 30)
    torch.testing.assert_close(values_and_gradient(sums, logits, labels), expected, rtol=0, atol=0)


# Speed, by what decides it


@pytest.mark.parametrize("margin", [0.0, 15.0, 30.0, 50.0])
@pytest.mark.parametrize("columns", [10, 1000])
def test_no_row_is_redone_while_margins_are_moderate(margin, columns):
    labels = labels_of(11, columns, 64)
    logits = with_margin(logits_of(11, 64, columns, scale=1.0, dtype=torch.float32), labels, margin)
    assert rivals.rival_masses(logits, labels.unsqueeze(1)).redo is None
    shifted = with_margin(logits, labels, 200.0)
    assert rivals.rival_masses(shifted, labels.unsqueeze(1)).redo.where.all()


def large_allocations(run, size):
    """How many blocks of at least ``size`` bytes a call takes."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() >= size for event in events)


@pytest.mark.parametrize(("fast", "plain"), TWINS)
def test_forward_and_backward_take_one_array_of_the_size_of_the_logits(fast, plain):
    logits, labels = logits_of(12, 512, 1000, dtype=torch.float32).requires_grad_(), labels_of(12, 999, 512)
    upstream = torch.rand(512)

    def step(function):
        values = function(logits, labels)
        return lambda: grad(function(logits, labels), logits, [upstream.view(value.shape) for value in values])

    size = logits.numel() * 4
    assert large_allocations(step(fast), size) == 1
    reference = large_allocations(lambda: F.cross_entropy(logits, labels).backward(inputs=[logits]), size)
    assert reference >= 3
    assert large_allocations(step(plain), size) > reference


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
