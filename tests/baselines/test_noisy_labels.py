import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad

import catchment as ct
from catchment import CrossEntropy, create_objective
from catchment.baselines.noisy_labels import transition_matrix

INF = math.inf
SAMPLES = 12
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.3], dtype=torch.float64)


def random_case(kind, *spatial, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(SAMPLES, 4, *spatial, generator=generator, dtype=torch.float64)
    if kind == "probabilities":
        return logits.to(dtype), torch.randn(logits.shape, generator=generator, dtype=torch.float64).softmax(1).to(
            dtype
        )
    target = torch.randint(4, (SAMPLES, *spatial), generator=generator)
    target[::5] = -100
    return logits.to(dtype), target


def value_and_grad(function, logits):
    logits = logits.detach().requires_grad_()
    value = function(logits)
    return value.detach(), grad(value.sum(), logits)[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spatial", [(), (3,), (2, 3)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(kind, spatial, reduction, dtype):
    logits, target = random_case(kind, *spatial, dtype=dtype)
    got = value_and_grad(lambda z: CrossEntropy(reduction=reduction)(z, target), logits)
    if kind == "probabilities" and reduction == "mean":  # per pixel, like class indices
        expected = value_and_grad(lambda z: F.cross_entropy(z, target, reduction="none").mean(), logits)
    else:
        expected = value_and_grad(lambda z: F.cross_entropy(z, target, reduction=reduction), logits)
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_equals_torch_with_class_weights(reduction, ignore_index):
    logits, target = random_case("indices", 3)
    target[target == -100] = ignore_index
    ours = CrossEntropy(weight=WEIGHT, ignore_index=ignore_index, reduction=reduction)
    got = value_and_grad(lambda z: ours(z, target), logits)
    expected = value_and_grad(
        lambda z: F.cross_entropy(z, target, WEIGHT, ignore_index=ignore_index, reduction=reduction), logits
    )
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


def test_class_weights_of_class_probabilities_weigh_the_sample():
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], dtype=torch.float64).log()
    y = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0, 5.0])
    losses = [-0.5 * math.log(0.2) - 0.5 * math.log(0.3), -math.log(0.8)]
    weighted = [2.0 * losses[0], 5.0 * losses[1]]  # 0.5 * 1 + 0.5 * 3, and 5
    none = CrossEntropy(weight=weight, reduction="none")(logits, y)
    assert none.tolist() == pytest.approx(weighted, rel=1e-13)
    assert CrossEntropy(weight=weight)(logits, y).item() == pytest.approx(sum(weighted) / 7.0, rel=1e-13)
    one_hot = F.one_hot(torch.tensor([1, 2]), 3).double()  # where both kinds of target mean the same
    assert CrossEntropy(weight=weight)(logits, one_hot).item() == pytest.approx(
        CrossEntropy(weight=weight)(logits, torch.tensor([1, 2])).item(), rel=1e-13
    )


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((0, 3), torch.zeros(0, dtype=torch.long)),
        ((0, 3), torch.zeros(0, 3)),
        ((2, 3), torch.tensor([-100, -100])),
        ((2, 3, 2), torch.full((2, 2), -100)),
    ],
)
def test_nothing_to_average_gives_zero(shape, target):
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, target), torch.ones(shape))
    assert value.item() == 0
    assert (gradient == 0).all()
    assert F.cross_entropy(torch.ones(shape), target).isnan()  # the departure from torch


def test_impossible_class_without_probability_contributes_nothing():
    logits = torch.tensor([[0.0, -INF, 1.0]], dtype=torch.float64)
    y = torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64)
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, y), logits)
    expected, expected_gradient = value_and_grad(lambda z: CrossEntropy()(z, y[:, ::2]), logits[:, ::2])
    assert value.item() == pytest.approx(expected.item(), rel=1e-14)
    assert gradient[0, ::2].tolist() == pytest.approx(expected_gradient[0].tolist(), rel=1e-14)
    assert gradient[0, 1] == 0


def test_impossible_label_is_infinite():
    logits = torch.tensor([[0.0, -INF, 1.0]])
    assert CrossEntropy()(logits, torch.tensor([1])).item() == INF
    assert CrossEntropy()(logits, torch.tensor([[0.5, 0.5, 0.0]])).item() == INF


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, target = random_case("indices", dtype=dtype)
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, target), logits)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, CrossEntropy()(logits.float(), target))
    torch.testing.assert_close(value, F.cross_entropy(logits.float(), target), rtol=1e-6, atol=0)


def test_huge_logits():
    logits = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]])
    for target in (torch.tensor([0, 0]), torch.tensor([[1.0, 0.0, 0.0]] * 2)):
        value, gradient = value_and_grad(lambda z, y=target: CrossEntropy(reduction="none")(z, y), logits)
        assert value.tolist() == [2e4, 0.0]
        assert gradient.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.tensor(0), r"logits have shape \(3,\)"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), "logits are torch.int64"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "the label 3: give 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "no known class"),
        (torch.zeros(2, 3), torch.eye(4)[:2], r"class probabilities \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([True, False]), "torch.bool"),
    ],
)
def test_says_what_is_wrong(logits, target, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy()(logits, target)


def test_checks_when_it_is_made():
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        CrossEntropy(reduction="avg")
    with pytest.raises(ValueError, match="weight has shape"):
        CrossEntropy(weight=torch.ones(2))(torch.zeros(1, 3), torch.tensor([0]))


def test_reads_its_outputs_by_the_softmax():
    objective, logits = CrossEntropy(), torch.tensor([[1.0, 3.0], [4.0, 1.0]]).log()
    torch.testing.assert_close(objective.probabilities(logits), torch.tensor([[0.25, 0.75], [0.8, 0.2]]))
    torch.testing.assert_close(objective.unknown_score(logits), torch.tensor([0.25, 0.2]))
    torch.testing.assert_close(objective.label_score(logits, torch.tensor([0, 0])), torch.tensor([0.75, 0.2]))
    assert objective.label_score(logits, torch.tensor([-1, -100])).isnan().all()
    assert objective.make_head(5, 3)(torch.zeros(2, 5)).shape == (2, 3)
    assert CrossEntropy(weight=torch.ones(3)).state_dict() == {}


def test_gradient_reaches_the_class_probabilities():
    logits, y = random_case("probabilities")
    assert torch.autograd.gradcheck(CrossEntropy(weight=WEIGHT), (logits[:3].requires_grad_(), y[:3].requires_grad_()))


# The numbers of the papers' code

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
DETACHED = {"gamma": 0.5, "detach_factor": True}
GOLDEN_LOSSES = {
    "ce": ("cross-entropy", {}),
    "mae": ("mae", {}),
    "rce": ("rce", {}),
    "gce(q=0.7)": ("gce", {"q": 0.7}),
    "sce(alpha=0.1,beta=1)": ("sce", {"alpha": 0.1, "beta": 1.0}),
    "nce": ("nce", {}),
    "nnce(min_prob=1e-7)": ("nnce", {"min_prob": 1e-7}),
    "focal_detached(gamma=0.5)": ("focal", DETACHED),
    "nfl_detached(gamma=0.5)": ("nfl", DETACHED),
    "nnfl_detached(gamma=0.5)": ("nnfl", DETACHED),
    "agce(a=6,q=1.5)": ("agce", {"a": 6.0, "q": 1.5}),
    "aul(a=6.3,q=1.5)": ("aul", {"a": 6.3, "q": 1.5}),
    "ael(a=5)": ("ael", {"a": 5.0}),
    "nce_rce(1,1)": ("nce-rce", {"alpha": 1.0, "beta": 1.0}),
    "nce_agce(1,4,a=6,q=1.5)": ("nce-agce", {"alpha": 1.0, "beta": 4.0, "a": 6.0, "q": 1.5}),
    "anl_ce(5,5)": ("anl-ce", {"alpha": 5.0, "beta": 5.0}),
}


def test_every_golden_loss_is_compared():
    names = {key.removesuffix("/value") for key in GOLDEN if key.endswith("/value") and not key.startswith("drainage")}
    assert names == set(GOLDEN_LOSSES)


@pytest.mark.parametrize("golden", GOLDEN_LOSSES)
@pytest.mark.parametrize("kind", ["indices", "one-hot probabilities"])
def test_equals_the_papers_code(golden, kind):
    name, parameters = GOLDEN_LOSSES[golden]
    target = torch.from_numpy(GOLDEN["targets"])
    if kind == "one-hot probabilities":
        target = F.one_hot(target, 10).double()
    loss = create_objective(name, num_classes=10, **parameters)
    value, gradient = value_and_grad(lambda z: loss(z, target), torch.from_numpy(GOLDEN["logits"]))
    assert value.item() == pytest.approx(GOLDEN[f"{golden}/value"].item(), rel=0, abs=1e-10)
    np.testing.assert_allclose(gradient, GOLDEN[f"{golden}/grad"], rtol=0, atol=1e-10)


# The formulas, on probabilities


def focal(p, gamma):
    return -((1 - p) ** gamma) * math.log(p)


def normalised(terms, y):
    return terms[y] / sum(terms)


def negative(terms, y, bound):
    return 1 - (bound - terms[y]) / sum(bound - term for term in terms)


A = -math.log(1e-7)
FORMULAS = {  # name -> l(p, y) with the default parameters
    "cross-entropy": lambda p, y: -math.log(p[y]),
    "focal": lambda p, y: focal(p[y], 2.0),
    "mae": lambda p, y: sum(abs(p_k - (k == y)) for k, p_k in enumerate(p)) / 2,
    "mse": lambda p, y: sum((p_k - (k == y)) ** 2 for k, p_k in enumerate(p)),
    "rce": lambda p, y: -sum(p_k * math.log(max(k == y, 1e-4)) for k, p_k in enumerate(p)),
    "gce": lambda p, y: (1 - p[y] ** 0.7) / 0.7,
    "sce": lambda p, y: 0.1 * -math.log(p[y]) + FORMULAS["rce"](p, y),
    "nce": lambda p, y: math.log(p[y]) / sum(map(math.log, p)),
    "nfl": lambda p, y: normalised([focal(p_k, 0.5) for p_k in p], y),
    "nnce": lambda p, y: 1 - (A + math.log(p[y])) / sum(A + math.log(p_k) for p_k in p),
    "nnfl": lambda p, y: negative([focal(p_k, 0.5) for p_k in p], y, focal(1e-7, 0.5)),
    "agce": lambda p, y: (1.6**0.6 - (0.6 + p[y]) ** 0.6) / 0.6,
    "aul": lambda p, y: ((5.5 - p[y]) ** 3 - 4.5**3) / 3,
    "ael": lambda p, y: math.exp(-p[y] / 2.5),
    "nce-mae": lambda p, y: FORMULAS["nce"](p, y) + FORMULAS["mae"](p, y),
    "nce-rce": lambda p, y: FORMULAS["nce"](p, y) + FORMULAS["rce"](p, y),
    "nfl-rce": lambda p, y: FORMULAS["nfl"](p, y) + FORMULAS["rce"](p, y),
    "nce-agce": lambda p, y: FORMULAS["nce"](p, y) + 4 * (7**1.5 - (6 + p[y]) ** 1.5) / 1.5,
    "nce-aul": lambda p, y: FORMULAS["nce"](p, y) + 4 * ((6.3 - p[y]) ** 1.5 - 5.3**1.5) / 1.5,
    "nce-ael": lambda p, y: FORMULAS["nce"](p, y) + 4 * math.exp(-p[y] / 5),
    "anl-ce": lambda p, y: 5 * FORMULAS["nce"](p, y) + 5 * FORMULAS["nnce"](p, y),
    "anl-fl": lambda p, y: 5 * FORMULAS["nfl"](p, y) + 5 * FORMULAS["nnfl"](p, y),
    "label-smoothing": lambda p, y: -0.9 * math.log(p[y]) - 0.1 / len(p) * sum(map(math.log, p)),
    "bootstrap-soft": lambda p, y: -sum((0.95 * (k == y) + 0.05 * p_k) * math.log(p_k) for k, p_k in enumerate(p)),
    "bootstrap-hard": lambda p, y: -0.8 * math.log(p[y]) - 0.2 * math.log(max(p)),
    "forward-correction": lambda p, y: -math.log(0.8 * p[y] + 0.2 / (len(p) - 1) * (1 - p[y])),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_is_its_formula(name):
    for num_classes in (2, 3, 7):
        logits = torch.randn(5, num_classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
        loss = create_objective(name, num_classes=num_classes, reduction="none")
        for y in range(num_classes):
            expected = [FORMULAS[name](p, y) for p in logits.softmax(1).tolist()]
            assert loss(logits, torch.full((5,), y)).tolist() == pytest.approx(expected, rel=1e-11)


def test_worked_out_by_hand():
    """p = 1/2, 1/4, 1/4 and the label 1."""
    logits, target = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log(), torch.tensor([1])
    expected = {
        "mae": 3 / 4,
        "mse": 1 / 4 + 9 / 16 + 1 / 16,
        "rce": 3 / 4 * 4 * math.log(10),
        "nce": 2 / 5,  # 2 log 2 over (1 + 2 + 2) log 2
        "aul": (5.25**3 - 4.5**3) / 3,
        "nce-mae": 2 / 5 + 3 / 4,
        "bootstrap-hard": (0.8 * 2 + 0.2) * math.log(2),
        "forward-correction": -math.log(0.8 / 4 + 0.1 * 3 / 4),
    }
    for name, value in expected.items():
        assert create_objective(name, num_classes=3)(logits, target).item() == pytest.approx(value, rel=1e-13), name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("focal", {"gamma": 0.5}), ("focal", {"gamma": 2.0}), ("mae", {}), ("mse", {}), ("rce", {"min_prob": 0.0}),
        ("gce", {}), ("gce", {"q": 0.1}), ("sce", {"min_prob": 0.0}), ("nce", {}), ("nfl", {}), ("agce", {}),
        ("agce", {"a": 6.0, "q": 1.5}), ("aul", {}), ("aul", {"a": 3.0, "q": 0.1}), ("nce-mae", {}),
        ("nce-agce", {}), ("nce-aul", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_keeps_its_digits_as_p_goes_to_1(name, parameters, kind):
    margins = torch.tensor([5.0, 10.0, 15.0, 20.0, 30.0, 40.0])
    logits = torch.stack([margins, torch.zeros(6), torch.full((6,), -1.0), torch.full((6,), 0.5)], 1)
    target = torch.zeros(6, dtype=torch.long)
    if kind == "probabilities":
        target = F.one_hot(target, 4).float()
    loss = create_objective(name, num_classes=4, reduction="none", **parameters)
    got, got_gradient = value_and_grad(lambda z: loss(z, target), logits)
    target = target.double() if kind == "probabilities" else target
    expected, expected_gradient = value_and_grad(lambda z: loss(z, target), logits.double())
    assert (expected > 0).all()
    tiny = torch.finfo(torch.float32).tiny
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=tiny)
    np.testing.assert_allclose(got_gradient, expected_gradient, rtol=2e-5, atol=tiny)


# What the papers prove of them


def over_classes(loss, logits):
    """The losses of all labels ``(N, C)``."""
    return torch.stack([loss(logits, torch.full((len(logits),), c)) for c in range(logits.shape[1])], 1)


@pytest.mark.parametrize(
    ("name", "parameters", "total"),
    [
        ("mae", {}, 3.0),
        ("rce", {"min_prob": 0.0}, 3 * 4 * math.log(10)),
        ("nce", {}, 1.0),
        ("nfl", {}, 1.0),
        ("nnce", {}, 3.0),
        ("nnfl", {}, 3.0),
        ("nce-mae", {"alpha": 2.0, "beta": 0.5}, 2.0 + 1.5),
        ("anl-ce", {}, 5.0 + 15.0),
        ("anl-fl", {}, 5.0 + 15.0),
    ],
)
def test_symmetric_losses_sum_to_a_constant_over_the_labels(name, parameters, total):
    """Ghosh et al.: then symmetric noise doesn't move the minimiser."""
    logits, _ = random_case("indices")
    losses = over_classes(create_objective(name, num_classes=4, reduction="none", **parameters), logits)
    assert losses.sum(1).tolist() == pytest.approx([total] * SAMPLES, rel=1e-11)


@pytest.mark.parametrize(
    ("loss", "same"),
    [
        (ct.FocalLoss(0.0), CrossEntropy()),
        (ct.NFL(0.0), ct.NCE()),
        (ct.NNFL(0.0), ct.NNCE()),
        (ct.GCE(1.0), ct.MAE()),
        (ct.AGCE(3.0, 1.0), ct.MAE()),
        (ct.AUL(3.0, 1.0), ct.MAE()),
        (ct.SCE(1.0, 0.0), CrossEntropy()),
        (ct.LabelSmoothing(0.0), CrossEntropy()),
        (ct.SoftBootstrap(1.0), CrossEntropy()),
        (ct.HardBootstrap(1.0), CrossEntropy()),
        (ct.ForwardCorrection(0.0, num_classes=4), CrossEntropy()),
        (ct.BackwardCorrection(0.0, num_classes=4), CrossEntropy()),
        (ct.ActivePassive(ct.NCE(), ct.MAE(), 1.0, 0.0), ct.NCE()),
        (ct.ANLCEER(2.0, 3.0, 0.0), ct.ActivePassive(ct.NCE(), ct.NNCE(), 2.0, 3.0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_special_cases(loss, same, kind):
    logits, target = random_case(kind, 2)
    torch.testing.assert_close(
        value_and_grad(lambda z: loss(z, target), logits),
        value_and_grad(lambda z: same(z, target), logits),
        rtol=1e-11,
        atol=1e-13,
    )


def test_gce_tends_to_cross_entropy():
    logits, target = random_case("indices")
    torch.testing.assert_close(ct.GCE(1e-6)(logits, target), CrossEntropy()(logits, target), rtol=1e-5, atol=0)


def test_mse_is_torchs_times_the_number_of_classes():
    logits, _ = random_case("indices")
    target = torch.arange(SAMPLES) % 4
    expected = 4 * nn.MSELoss()(logits.softmax(1), F.one_hot(target, 4).double())
    torch.testing.assert_close(ct.MSE()(logits, target), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
def test_label_smoothing_is_torchs(smoothing):
    logits, target = random_case("indices", 3)
    torch.testing.assert_close(
        value_and_grad(lambda z: ct.LabelSmoothing(smoothing)(z, target), logits),
        value_and_grad(lambda z: F.cross_entropy(z, target, label_smoothing=smoothing), logits),
        rtol=1e-11,
        atol=1e-13,
    )


# The switches on which published numbers depend


def test_detached_focal_factor_leaves_a_weighted_cross_entropy_gradient():
    logits, target = random_case("indices")
    target = target.clamp(min=0)
    value, gradient = value_and_grad(lambda z: ct.FocalLoss(0.5, detach_factor=True)(z, target), logits)
    exact_value, exact_gradient = value_and_grad(lambda z: ct.FocalLoss(0.5)(z, target), logits)
    assert value == exact_value
    p = logits.softmax(1)
    factor = (1 - p.gather(1, target[:, None])) ** 0.5
    torch.testing.assert_close(gradient, factor * (p - F.one_hot(target, 4)) / SAMPLES, rtol=1e-11, atol=1e-14)
    assert (gradient - exact_gradient).abs().max() > 5e-3


@pytest.mark.parametrize("loss", [ct.NFL, ct.NNFL])
def test_detached_factors_of_normalised_focal_losses_change_the_gradient_alone(loss):
    logits, target = random_case("indices")
    value, gradient = value_and_grad(lambda z: loss(0.5, detach_factor=True)(z, target), logits)
    exact_value, exact_gradient = value_and_grad(lambda z: loss(0.5)(z, target), logits)
    assert value == exact_value
    assert (gradient - exact_gradient).abs().max() > 1e-4


def test_published_clamps_stop_the_gradient_and_0_turns_them_off():
    logits = torch.tensor([[0.0, 20.0, 3.0]], dtype=torch.float64)  # p_y = 2e-9
    target = torch.tensor([0])
    value, gradient = value_and_grad(lambda z: ct.GCE(0.7)(z, target), logits)
    assert value.item() == pytest.approx((1 - 1e-7**0.7) / 0.7, rel=1e-13)
    assert (gradient == 0).all()
    p = logits.softmax(1)[0, 0].item()
    value, gradient = value_and_grad(lambda z: ct.GCE(0.7, min_prob=0.0)(z, target), logits)
    assert value.item() == pytest.approx((1 - p**0.7) / 0.7, rel=1e-13)
    assert gradient[0, 0].item() == pytest.approx(-(p**0.7) * (1 - p), rel=1e-9)

    target = torch.tensor([1])  # the others have 2e-9 and 4e-8, so both are raised to 1e-7
    value, gradient = value_and_grad(lambda z: ct.RCE()(z, target), logits)
    assert value.item() == pytest.approx(-math.log(1e-4) * 2e-7, rel=1e-9)
    assert gradient.abs().max() < 1e-20
    value, gradient = value_and_grad(lambda z: ct.RCE(min_prob=0.0)(z, target), logits)
    assert value.item() == pytest.approx(-math.log(1e-4) * (p + p * math.exp(3)), rel=1e-9)
    assert gradient[0, 1] < -1e-8


@pytest.mark.parametrize("loss", [ct.NNCE, ct.NNFL])
def test_negative_losses_need_a_floor(loss):
    with pytest.raises(ValueError, match=r"min_prob is 0, which makes A = -log\(min_prob\) infinite: give a number"):
        loss(min_prob=0.0)


# Combinations


def test_active_passive_adds_its_parts():
    logits, target = random_case("indices", 2)
    loss = ct.ActivePassive(ct.NFL(0.7), ct.AUL(4.0, 2.0), alpha=3.0, beta=0.25, weight=WEIGHT, reduction="none")
    parts = [
        part(weight=WEIGHT, reduction="none", **kw)
        for part, kw in ((ct.NFL, {"gamma": 0.7}), (ct.AUL, {"a": 4.0, "q": 2.0}))
    ]
    expected = 3.0 * parts[0](logits, target) + 0.25 * parts[1](logits, target)
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("own", [{"weight": WEIGHT}, {"ignore_index": 3}, {"reduction": "sum"}])
def test_parts_of_a_combination_have_no_conventions_of_their_own(own):
    with pytest.raises(ValueError, match="MAE has a weight, ignore_index or reduction of its own: give it to"):
        ct.ActivePassive(ct.NCE(), ct.MAE(**own))


def test_entropy_of_the_batch_leaves_ignored_samples_out():
    logits = torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.01, 0.99]], dtype=torch.float64).log()
    target = torch.tensor([0, 0, -100])
    anl = ct.ActivePassive(ct.NCE(), ct.NNCE(), 5.0, 5.0)(logits, target)
    entropy = -(0.65 * math.log(0.65) + 0.35 * math.log(0.35))
    assert ct.ANLCEER(lamb=2.0)(logits, target).item() == pytest.approx(
        anl.item() + 2.0 * (math.log(2) - entropy), rel=1e-12
    )
    none = ct.ANLCEER(lamb=2.0, reduction="none")(logits, target)
    assert none.mean().item() * 3 / 2 == pytest.approx(ct.ANLCEER(lamb=2.0)(logits, target).item(), rel=1e-12)


def test_raising_p_above_1_minus_the_floor_would_change_nothing():
    """ANL-CE-ER's code also clamps p at 1 - min_prob: where it does, all rivals are below the floor already."""
    logits = torch.tensor([[25.0, 0.0, -1.0]], dtype=torch.float64)
    assert logits.softmax(1).max() > 1 - 1e-7
    for label, expected in ((0, 0.0), (1, 1.0)):
        value, gradient = value_and_grad(lambda z, y=label: ct.NNCE()(z, torch.tensor([y])), logits)
        assert value.item() == expected
        assert (gradient == 0).all()


# Bootstrapping


def test_soft_bootstrapping_takes_the_gradient_through_both_probabilities():
    logits, target = random_case("indices")
    target = target.clamp(min=0)
    _, gradient = value_and_grad(lambda z: ct.SoftBootstrap(0.7, reduction="sum")(z, target), logits)
    p = logits.softmax(1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    expected = 0.7 * (p - F.one_hot(target, 4).double()) - 0.3 * p * (p.log() + entropy)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-13)


def test_hard_bootstrapping_holds_the_prediction_constant():
    logits, target = random_case("indices")
    target = target.clamp(min=0)
    _, gradient = value_and_grad(lambda z: ct.HardBootstrap(0.6, reduction="sum")(z, target), logits)
    mixed = 0.6 * F.one_hot(target, 4).double() + 0.4 * F.one_hot(logits.argmax(1), 4).double()
    torch.testing.assert_close(gradient, logits.softmax(1) - mixed, rtol=1e-11, atol=1e-13)
    tie = torch.zeros(1, 3, dtype=torch.float64)  # the first of the largest, not a share of each
    _, gradient = value_and_grad(lambda z: ct.HardBootstrap(0.0)(z, torch.tensor([2])), tie)
    assert gradient[0].tolist() == pytest.approx([1 / 3 - 1, 1 / 3, 1 / 3])


# Loss correction

T = torch.tensor(
    [[0.7, 0.2, 0.1, 0.0], [0.0, 0.9, 0.1, 0.0], [0.1, 0.1, 0.8, 0.0], [0.3, 0.0, 0.0, 0.7]], dtype=torch.float64
)


def test_forward_correction_is_the_likelihood_of_the_given_label():
    logits, target = random_case("indices", 2)
    got = value_and_grad(lambda z: ct.ForwardCorrection(T)(z, target), logits)
    expected = value_and_grad(lambda z: F.nll_loss(torch.einsum("nkd,kc->ncd", z.softmax(1), T).log(), target), logits)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_backward_correction_is_unbiased():
    """Patrini et al., theorem 1: averaged over the noise it is cross-entropy with the true label."""
    logits, _ = random_case("indices")
    corrected = over_classes(ct.BackwardCorrection(T, reduction="none"), logits)
    clean = over_classes(CrossEntropy(reduction="none"), logits)
    torch.testing.assert_close(corrected @ T.T, clean, rtol=1e-10, atol=1e-12)
    assert corrected.min() < 0  # it may be negative


def test_corrections_at_masked_classes():
    logits = torch.tensor([[0.3, -INF, 1.0, 0.1]], dtype=torch.float64)
    p = logits.softmax(1)[0]
    value, gradient = value_and_grad(lambda z: ct.ForwardCorrection(T)(z, torch.tensor([2])), logits)
    assert value.item() == pytest.approx(-math.log(0.1 * p[0] + 0.8 * p[2]), rel=1e-12)
    assert gradient.isfinite().all()
    # the class 1 is masked and yet possible as a label, since labels of class 0 and 2 are changed to it
    value, gradient = value_and_grad(lambda z: ct.ForwardCorrection(T)(z, torch.tensor([1])), logits)
    assert value.item() == pytest.approx(-math.log(0.2 * p[0] + 0.1 * p[2]), rel=1e-12)
    assert gradient.isfinite().all()
    value, gradient = value_and_grad(lambda z: ct.BackwardCorrection(T)(z, torch.tensor([2])), logits)
    row = torch.linalg.inv(T)[2]
    expected = -sum(row[k] * p[k].log() for k in (0, 2, 3))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert gradient.isfinite().all()


def test_a_rate_stands_for_symmetric_noise_without_the_own_class():
    torch.testing.assert_close(
        transition_matrix(0.3, 4), torch.full((4, 4), 0.1, dtype=torch.float64).fill_diagonal_(0.7), rtol=0, atol=1e-15
    )
    logits, target = random_case("indices")
    by_rate = create_objective("forward-correction", num_classes=4, transition=0.3)
    assert by_rate(logits, target) == ct.ForwardCorrection(transition_matrix(0.3, 4).tolist())(logits, target)
    assert by_rate.state_dict() == {}


@pytest.mark.parametrize(
    ("transition", "num_classes", "message"),
    [
        (0.2, None, "transition is a rate, and num_classes is not given"),
        (1.5, 4, "transition is 1.5: give a finite number of at least 0 and at most 1"),
        ([[0.5, 0.5]], None, r"transition has shape \(1, 2\): give \(C, C\)"),
        ([[0.5, 0.5], [0.4, 0.4]], None, "rows of transition are not probabilities that sum to 1"),
        ([[1.5, -0.5], [0.0, 1.0]], None, "rows of transition are not probabilities"),
        ([[1.0, 0.0], [0.0, 1.0]], 3, "transition is for 2 classes: give it for the 3"),
    ],
)
def test_transition_matrices_that_cannot_be(transition, num_classes, message):
    for loss in (ct.ForwardCorrection, ct.BackwardCorrection):
        with pytest.raises(ValueError, match=message):
            loss(transition, num_classes=num_classes)


def test_corrections_say_what_does_not_fit():
    with pytest.raises(ValueError, match="transition has no inverse: give a lower noise rate"):
        ct.BackwardCorrection(0.75, num_classes=4)
    with pytest.raises(ValueError, match="the transition matrix is for 4 classes and the logits for 3"):
        ct.ForwardCorrection(T)(torch.zeros(1, 3), torch.tensor([0]))


# Early-learning regularisation


def elr(samples=10, classes=3, **parameters):
    loss = ct.ELR(**parameters)
    loss.setup(num_samples=samples, class_counts=torch.ones(classes))
    return loss


def test_elr_remembers_each_sample():
    loss = elr(beta=0.6, lamb=2.0, reduction="none")
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    index, target = torch.tensor([7, 2]), torch.tensor([1, 2])
    memory = np.zeros((10, 3))
    for _ in range(3):
        memory[[7, 2]] = 0.6 * memory[[7, 2]] + 0.4 * p.numpy()
        expected = -np.log(p.numpy()[[0, 1], [1, 2]]) + 2.0 * np.log(1 - (memory[[7, 2]] * p.numpy()).sum(1))
        np.testing.assert_allclose(loss(p.log(), target, index=index), expected, rtol=1e-6)
        np.testing.assert_allclose(loss.targets, memory, atol=1e-6)
    loss.eval()
    before = loss.targets.clone()
    loss(p.log(), target, index=index)
    assert torch.equal(loss.targets, before)


def test_elr_takes_no_gradient_through_its_memory():
    loss = elr(beta=0.7, lamb=3.0, reduction="sum")
    logits = torch.tensor([[1.0, 0.2, -0.5]], dtype=torch.float64)
    _, gradient = value_and_grad(lambda z: loss(z, torch.tensor([1]), index=torch.tensor([4])), logits)
    p, t = logits.softmax(1)[0], loss.targets[4].double()
    agreement = (p * t).sum()
    expected = p - F.one_hot(torch.tensor(1), 3) - 3.0 / (1 - agreement) * p * (t - agreement)
    torch.testing.assert_close(gradient[0], expected, rtol=1e-6, atol=1e-8)


def test_elr_stays_finite_for_a_sample_that_is_certain():
    loss = elr(beta=0.5)
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    for _ in range(60):
        value, gradient = value_and_grad(lambda z: loss(z, torch.tensor([0]), index=torch.tensor([0])), logits)
    assert value.item() == pytest.approx(3 * math.log(1e-4 + 1e-4), rel=0.05)
    assert gradient.isfinite().all()


def test_elrs_memory_is_training_state_and_is_needed():
    loss = elr()
    model = ct.Model(nn.Linear(2, 3), loss)
    assert "objective.targets" in model.state_dict()
    assert "objective.targets" not in model.inference_state()
    with pytest.raises(ValueError, match="ELR keeps a row for each training sample: call setup"):
        ct.ELR()(torch.zeros(1, 3), torch.tensor([0]), index=torch.tensor([0]))


# Settings


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("focal", {"gamma": -1.0}, "gamma is -1: give a finite number of at least 0"),
        ("gce", {"q": 0.0}, "q is 0: give a finite number above 0 and at most 1"),
        ("gce", {"q": 1.5}, "q is 1.5: give a finite number above 0 and at most 1"),
        ("gce", {"min_prob": -1e-7}, "min_prob is -1e-07: give a finite number of at least 0"),
        ("rce", {"min_label": 0.0}, "min_label is 0: give a finite number above 0"),
        ("sce", {"alpha": math.nan}, "alpha is nan: give a finite number"),
        ("nce-rce", {"beta": -2.0}, "beta is -2: give a finite number of at least 0"),
        ("agce", {"a": 0.0}, "a is 0: give a finite number above 0"),
        ("aul", {"a": 1.0}, "a is 1: give a finite number above 1"),
        ("ael", {"a": math.inf}, "a is inf: give a finite number above 0"),
        ("label-smoothing", {"smoothing": 1.1}, "smoothing is 1.1: give a finite number of at least 0 and at most 1"),
        ("bootstrap-soft", {"beta": 2.0}, "beta is 2: give a finite number of at least 0 and at most 1"),
        ("bootstrap-hard", {"beta": -0.1}, "beta is -0.1"),
        ("elr", {"min_prob": 0.0}, "min_prob is 0: give a finite number above 0"),
        ("anl-ce-er", {"lamb": -1.0}, "lamb is -1"),
    ],
)
def test_hyperparameters_out_of_range(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        create_objective(name, num_classes=3, **parameters)


def test_says_its_hyperparameters():
    assert repr(ct.FocalLoss(0.5, detach_factor=True)) == "FocalLoss(gamma=0.5, detach_factor=True)"
    assert repr(ct.GCE()) == "GCE(q=0.7, min_prob=1e-07)"
