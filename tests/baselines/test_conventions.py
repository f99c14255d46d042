"""What every loss of one label does alike, method by method: a new record is tested by being listed."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import catchment as ct

INF = math.inf
CLASSES = 4
COUNTS = torch.tensor([5, 40, 10, 25])


def follows_them(objective):
    """Whether it takes logits and one label for each sample, and nothing of other networks."""
    return objective.inputs == ("logits",) and objective.exclusive and set(objective.needs) <= {"index", "progress"}


METHODS = [
    method.name for method in ct.list_objectives() if follows_them(ct.create_objective(method.name, num_classes=4))
]
each_method = pytest.mark.parametrize("name", METHODS)
KINDS = ("indices", "probabilities")


def make(name, num_classes=CLASSES, **parameters):
    """The objective with its defaults, set up, and with a memory of each sample where it keeps one."""
    objective = ct.create_objective(name, num_classes=num_classes, **parameters)
    objective.setup(num_samples=50, class_counts=COUNTS[:num_classes])
    if name == "elr":
        objective.targets.copy_(random_logits(50, num_classes, seed=9).softmax(1) * 0.8)
    return objective.eval()  # ELR's memory changes in training mode alone: then a call would change the next


def call(objective, logits, target):
    columns = {"index": torch.arange(logits.shape[0]), "progress": torch.tensor(0.9)}
    return objective(logits, target, **{name: columns[name] for name in objective.needs})


def value_and_grad(objective, logits, target):
    logits = logits.detach().requires_grad_()
    value = call(objective, logits, target)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


def random_logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(objective, kind, samples=6, spatial=(), seed=0):
    """Logits in float64 and a target for them."""
    logits = random_logits(samples, CLASSES + objective.extra_outputs, *spatial, seed=seed)
    if kind == "probabilities":
        return logits, random_logits(samples, CLASSES, *spatial, seed=seed + 1).softmax(1)
    generator = torch.Generator().manual_seed(seed)
    return logits, torch.randint(CLASSES, (samples, *spatial), generator=generator)


def test_all_methods_are_here():
    assert len(METHODS) >= 36
    assert {"drainage", "cross-entropy", "elr", "ldam", "anl-ce-er", "l-uniform", "forward-correction"} <= set(METHODS)


@each_method
def test_weights_ignored_samples_and_reductions(name):
    plain = make(name, reduction="none")
    logits, target = case(plain, "indices")
    target[2] = -100
    losses = call(plain, logits, target)
    assert losses[2] == 0
    weight = torch.ones(CLASSES, dtype=torch.float64)
    if name not in ("ldam", "class-balanced"):  # which make weights of their own
        weight = torch.tensor([0.5, 2.0, 0.0, 1.3], dtype=torch.float64)
        weighted = call(make(name, reduction="none", weight=weight), logits, target)
        torch.testing.assert_close(weighted, losses * weight[target.clamp(min=0)], rtol=1e-12, atol=1e-14)
        total = call(make(name, reduction="sum", weight=weight), logits, target)
        mean = call(make(name, weight=weight), logits, target)
    else:
        weighted = losses
        weight = ct.class_balanced_weights(COUNTS)
        total, mean = (call(make(name, reduction=how), logits, target) for how in ("sum", "mean"))
    assert total.item() == pytest.approx(weighted.sum().item(), rel=1e-12)
    mass = weight[target[target >= 0]].sum()
    assert mean.item() == pytest.approx((weighted.sum() / mass).item(), rel=1e-6)


@each_method
@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_class_probabilities_give_the_expected_loss(name, spatial):
    objective = make(name, reduction="none")
    if name == "elr" and spatial:
        return
    logits, y = case(objective, "probabilities", spatial=spatial)
    y[1, 0] = 0.0
    y[1] /= y[1].sum(0)
    got = call(objective, logits, y)
    labels = [torch.full((6, *spatial), c) for c in range(CLASSES)]
    expected = sum(y[:, c] * call(objective, logits, labels[c]) for c in range(CLASSES))
    if name in ("class-balanced", "ldam"):  # a sample's weight is the mean of its classes'
        weight = ct.class_balanced_weights(COUNTS)
        sample_weight = (weight.reshape(1, -1, *[1] * len(spatial)) * y).sum(1)
        expected = sample_weight * sum(y[:, c] * call(objective, logits, labels[c]) / weight[c] for c in range(CLASSES))
    torch.testing.assert_close(got, expected, rtol=1e-6 if name in ("class-balanced", "ldam") else 1e-11, atol=1e-13)


@each_method
def test_each_pixel_is_a_sample(name):
    objective = make(name, reduction="none")
    logits, target = case(objective, "indices", samples=2, spatial=(3, 2))
    target[0, 0, 0] = -100
    if name == "elr":
        with pytest.raises(ValueError, match=r"ELR takes \(N, C\), one label for each sample"):
            call(objective, logits, target)
        return
    got = call(objective, logits, target)
    flat = call(objective, logits.movedim(1, -1).flatten(0, 2), target.flatten())
    torch.testing.assert_close(got.flatten(), flat, rtol=1e-12, atol=1e-14)


@each_method
def test_nothing_to_average_gives_zero(name):
    objective = make(name)
    outputs = CLASSES + objective.extra_outputs
    for samples, target in (
        (0, torch.zeros(0, dtype=torch.long)),
        (0, torch.zeros(0, CLASSES, dtype=torch.float64)),
        (2, torch.tensor([-100, -100])),
    ):
        value, gradient = value_and_grad(objective, torch.ones(samples, outputs, dtype=torch.float64), target)
        assert value.item() == 0
        assert (gradient == 0).all()


@each_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    objective = make(name)
    logits, target = case(objective, "indices")
    value, gradient = value_and_grad(objective, logits.to(dtype), target)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, call(objective, logits.to(dtype).float(), target))


@each_method
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_stay_finite(name, kind, dtype):
    objective = make(name, reduction="none")
    outputs = CLASSES + objective.extra_outputs
    rows = [[1e4 if k == top else -1e4 for k in range(outputs)] for top in range(outputs)]
    rows += [[1e4] * outputs, [-1e4] * outputs, [0.0] * outputs, [1e4, 1e4, *[-1e4] * (outputs - 2)]]
    logits = torch.tensor(rows, dtype=dtype)
    for label in range(CLASSES):
        target = torch.full((len(rows),), label)
        if kind == "probabilities":
            target = 0.9 * F.one_hot(target, CLASSES).to(dtype) + 0.025
        value, gradient = value_and_grad(objective, logits, target)
        assert value.isfinite().all(), value
        assert gradient.isfinite().all(), gradient
        assert gradient.sum(1).abs().max() <= 1e-5 * max(1.0, gradient.abs().max().item())


# a transition matrix is of all classes, so what a masked one does is tested with those losses
@pytest.mark.parametrize("name", [name for name in METHODS if not name.endswith("-correction")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_at_minus_infinity_is_as_if_it_was_not_there(name, kind):
    masked, fewer = make(name), make(name, CLASSES - 1)
    if name == "elr":
        masked.targets[:, -1] = 0.0
        fewer.targets.copy_(masked.targets[:, :-1])
    logits, target = case(masked, kind)
    target = target % (CLASSES - 1) if kind == "indices" else target[:, :-1] / target[:, :-1].sum(1, keepdim=True)
    kept = [k for k in range(logits.shape[1]) if k != CLASSES - 1]
    full_target = target if kind == "indices" else F.pad(target, (0, 1))
    at = logits.clone()
    at[:, CLASSES - 1] = -INF
    value, gradient = value_and_grad(masked, at, full_target)
    expected, expected_gradient = value_and_grad(fewer, logits[:, kept], target)
    if name == "anl-ce-er":
        expected = expected + masked.lamb * math.log(CLASSES / (CLASSES - 1))  # its log C counts every class
    tolerance = 1e-6 if name in ("class-balanced", "ldam") else 1e-11
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=1e-12)
    torch.testing.assert_close(gradient[:, kept], expected_gradient, rtol=tolerance, atol=1e-12)
    assert (gradient[:, CLASSES - 1] == 0).all()


BOUNDED = {  # the loss of a label at -inf, where it has a bound
    "mae": 1.0, "mse": None, "rce": None, "gce": None, "nce": 1.0, "nfl": 1.0, "nnce": 1.0, "nnfl": 1.0,
    "agce": None, "aul": None, "ael": 1.0, "nce-mae": 2.0, "nce-rce": None, "nfl-rce": None, "nce-agce": None,
    "nce-aul": None, "nce-ael": 5.0, "anl-ce": 10.0, "anl-fl": 10.0, "anl-ce-er": None, "forward-correction": None,
}  # fmt: skip


@each_method
def test_a_label_at_minus_infinity_is_infinitely_bad_or_at_the_bound(name):
    objective = make(name, reduction="none")
    logits = random_logits(1, CLASSES + objective.extra_outputs)
    logits[0, 1] = -INF
    value, gradient = value_and_grad(objective, logits, torch.tensor([1]))
    if name not in BOUNDED:
        assert value.item() == INF
        return
    assert gradient.isfinite().all()
    far = logits.clone()
    far[0, 1] = -1e9
    assert value.item() == pytest.approx(call(objective, far, torch.tensor([1])).item(), rel=1e-6)
    if BOUNDED[name] is not None:
        assert value.item() == pytest.approx(BOUNDED[name], rel=1e-12)


@each_method
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_exact(name, kind):
    objective = make(name)
    logits, target = case(objective, kind, samples=4, seed=3)
    if kind == "indices":
        target[1] = -100
    assert gradcheck(lambda z: call(objective, z, target), logits.requires_grad_())


@each_method
def test_compiles_without_a_graph_break(name):
    # tracing is what may break; the backward graph is built for one loss of each kind, since that takes long
    kinds = {"focal", "rce", "nnfl", "forward-correction", "elr", "ldam", "l-uniform"}
    backend = "aot_eager" if name in kinds else "eager"
    objective = make(name)
    logits, target = case(objective, "indices")
    expected = value_and_grad(objective, logits, target)
    torch._dynamo.reset()
    compiled = torch.compile(lambda z, y: call(objective, z, y), fullgraph=True, backend=backend)
    z = logits.detach().requires_grad_()
    value = compiled(z, target)
    torch.testing.assert_close(value.detach(), expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(value, z)[0], expected[1], rtol=1e-10, atol=1e-14)


@each_method
def test_per_sample_gradients_by_vmap(name):
    objective = make(name, reduction="sum")
    logits, target = case(objective, "indices")

    def one(z, y, i):
        columns = {"index": i[None], "progress": torch.tensor(0.9)}
        return objective(z[None], y[None], **{key: columns[key] for key in objective.needs})

    index = torch.arange(len(logits))
    got = torch.func.vmap(torch.func.grad(one))(logits, target, index)
    one_by_one = []
    for z, y, i in zip(logits, target, index, strict=True):
        z = z.detach().requires_grad_()
        one_by_one.append(torch.autograd.grad(one(z, y, i), z)[0])
    torch.testing.assert_close(got, torch.stack(one_by_one), rtol=1e-11, atol=1e-13)


@each_method
def test_a_constant_added_to_all_logits_changes_nothing(name):
    objective = make(name)
    logits, target = case(objective, "indices")
    torch.testing.assert_close(
        call(objective, logits + 7.5, target), call(objective, logits, target), rtol=1e-11, atol=1e-13
    )


@each_method
def test_says_what_is_wrong(name):
    objective = make(name)
    outputs = CLASSES + objective.extra_outputs
    for logits, target, message in [
        (torch.zeros(3), torch.tensor(0), r"logits have shape \(3,\)"),
        (torch.zeros(2, outputs).long(), torch.tensor([0, 1]), "logits are torch.int64"),
        (torch.zeros(2, outputs), torch.tensor([0, CLASSES]), f"the label {CLASSES}: give 0 to {CLASSES - 1}"),
        (torch.zeros(2, outputs), torch.eye(7)[:2], rf"class probabilities \(2, {CLASSES}\)"),
        (torch.zeros(2, outputs), torch.tensor([True, False]), "torch.bool"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(objective, logits, target)
    if not objective.accepts_unknown:
        with pytest.raises(ValueError, match="no known class"):
            call(objective, torch.zeros(2, outputs), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        make(name, reduction="avg")
