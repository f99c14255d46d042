"""The loss. The solver's own properties are in test_sinkhorn.py."""

import math

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from tiny_objectives import Net, make_dataset
from torch import nn

import catchment as ct
from catchment import CrossEntropy, DrainageLoss, Model, Objective
from catchment.dsink import METHODS, DSinkLoss, dsink_labels, label_shares
from catchment.sinkhorn import sinkhorn_labels
from catchment.training import TrainingConfig, train
from catchment.training.distributed import leave_process_group

N, C = 40, 5


def batch(seed=0, n=N, num_classes=C, dtype=torch.float64, scale=2.0):
    """Logits of f, f_N and f_L, and given labels."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: (scale * torch.randn(n, num_classes, generator=generator, dtype=torch.float64)).to(dtype)
    logits, f_noise, f_imbalance = draw(), draw(), draw()
    return logits, torch.randint(num_classes, (n,), generator=generator), f_noise, f_imbalance


def kl(q, p):
    return float((torch.xlogy(q, q) - torch.xlogy(q, p)).sum()) / len(q)


class Nothing(Objective):
    """A base that adds nothing."""

    def forward(self, logits, target):
        return 0 * logits.sum()


class TakesFeatures(Objective):
    inputs = ("features",)


class NotExclusive(Objective):
    exclusive = False


class NeedsIndex(Objective):
    needs = ("index", "progress")

    def forward(self, logits, target, *, index, progress):
        return F.cross_entropy(logits, target) + index.double().mean() + progress


def test_value_by_its_definition():
    logits, target, f_noise, f_imbalance = batch()
    loss = DSinkLoss(CrossEntropy(), weight=0.7, tol=1e-12)
    scores = 0.5 * (f_noise.log_softmax(1) + logits.log_softmax(1))
    q = sinkhorn_labels(scores, f_imbalance.softmax(1).sum(0), tol=1e-12).labels
    divergences = kl(q, f_noise.softmax(1)) + kl(q, logits.softmax(1))
    expected = float(F.cross_entropy(logits, target)) + 0.7 * divergences
    assert loss(logits, target, f_noise, f_imbalance).item() == pytest.approx(expected, abs=1e-10)


def test_the_minimum_is_below_every_other_feasible_labelling():
    logits, target, f_noise, f_imbalance = batch(1)
    value = DSinkLoss(Nothing(), tol=1e-12)(logits, target, f_noise, f_imbalance).item()
    totals = f_imbalance.softmax(1).sum(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = torch.randn(N, C, generator=generator, dtype=torch.float64)
        q = sinkhorn_labels(other, totals, tol=1e-12).labels
        assert kl(q, f_noise.softmax(1)) + kl(q, logits.softmax(1)) > value


@pytest.mark.parametrize("kl_weights", [(1.0, 1.0), (2.0, 1.0), (0.5, 3.0)])
def test_gradient_is_exact_in_batch_granularity(kl_weights):  # T10
    logits, target, f_noise, f_imbalance = batch(2)
    loss = DSinkLoss(Nothing(), weight=0.7, kl_weights=kl_weights, tol=1e-13)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, target, f_noise, f_imbalance), logits)
    q = dsink_labels(f_noise, logits, f_imbalance, kl_weights=kl_weights, tol=1e-13).labels
    expected = 0.7 * kl_weights[1] * (logits.softmax(1) - q) / N
    assert float((gradient - expected).detach().abs().max()) < 1e-11
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        direction = torch.randn(N, C, generator=generator, dtype=torch.float64)
        step = 1e-4
        with torch.no_grad():
            after, before = (
                loss(logits + sign * step * direction, target, f_noise, f_imbalance).item() for sign in (1, -1)
            )
        assert (after - before) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_neither_divergence_alone_has_that_gradient():
    logits, _, f_noise, f_imbalance = batch(3)
    direction = torch.randn(N, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def target_term(z):
        q = dsink_labels(f_noise, z, f_imbalance, tol=1e-13).labels
        return kl(q, z.softmax(1))

    q = dsink_labels(f_noise, logits, f_imbalance, tol=1e-13).labels
    slope = (target_term(logits + 1e-4 * direction) - target_term(logits - 1e-4 * direction)) / 2e-4
    detached = float(((logits.softmax(1) - q) / N * direction).sum())
    assert abs(slope - detached) > 0.1 * abs(detached)


def test_auxiliaries_get_no_gradient():
    logits, target, f_noise, f_imbalance = (x.requires_grad_() if x.is_floating_point() else x for x in batch(4))
    DSinkLoss()(logits, target, f_noise, f_imbalance).backward()
    assert f_noise.grad is None
    assert f_imbalance.grad is None
    assert float(logits.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("warm_up", "ramp", "progress", "share"),
    [
        (0.0, 0.1, 0.0, 0.0),
        (0.0, 0.1, 0.05, 0.5),
        (0.0, 0.1, 0.1, 1.0),
        (0.0, 0.1, 1.0, 1.0),
        (0.0, 0.1, None, 1.0),
        (0.25, 0.5, 0.25, 0.0),
        (0.25, 0.5, 0.5, 0.5),
        (0.25, 0.5, 0.8, 1.0),
        (0.25, 0.0, 0.2, 0.0),
        (0.25, 0.0, 0.25, 1.0),
    ],
)
def test_weight_rises_with_progress(warm_up, ramp, progress, share):
    logits, target, f_noise, f_imbalance = batch(5)
    loss = DSinkLoss(weight=2.0, warm_up=warm_up, ramp=ramp)
    base = float(F.cross_entropy(logits, target))
    full = loss(logits, target, f_noise, f_imbalance).item() - base
    for given in (progress, None if progress is None else torch.tensor(progress)):
        value = loss(logits, target, f_noise, f_imbalance, progress=given).item() - base
        assert value == pytest.approx(share * full, rel=1e-6, abs=1e-9)


def test_one_sample_learns_from_the_rare_class_model_alone():
    logits, target, f_noise, f_imbalance = batch(6, n=1)
    q = dsink_labels(f_noise, logits, f_imbalance, tol=1e-12).labels
    assert float((q - f_imbalance.softmax(1)).abs().max()) < 1e-11
    assert math.isfinite(DSinkLoss()(logits, target, f_noise, f_imbalance).item())


def test_samples_left_out_take_no_part():
    logits, target, f_noise, f_imbalance = batch(7)
    keep = torch.arange(N) % 3 > 0
    target[~keep] = -100
    logits.requires_grad_()
    value = DSinkLoss(tol=1e-12)(logits, target, f_noise, f_imbalance)
    expected = DSinkLoss(tol=1e-12)(logits[keep], target[keep], f_noise[keep], f_imbalance[keep])
    assert value.item() == pytest.approx(expected.item(), abs=1e-10)
    value.backward()
    assert logits.grad[~keep].abs().max().item() == 0


@pytest.mark.parametrize("granularity", ["batch", "queue", "dataset"])
def test_nothing_to_learn_from_is_zero(granularity):
    for n in (0, 3):
        logits, target, f_noise, f_imbalance = batch(8, n=n)
        loss = DSinkLoss(granularity=granularity)
        loss.setup(num_samples=N, class_counts=torch.ones(C))
        value = loss(
            logits.requires_grad_(), torch.full_like(target, -100), f_noise, f_imbalance, index=torch.arange(n)
        )
        value.backward()
        assert value.item() == 0
        assert logits.grad.abs().sum().item() == 0


def test_class_probabilities_as_target():
    logits, target, f_noise, f_imbalance = batch(9)
    soft = F.one_hot(target, C).double()
    values = [DSinkLoss()(logits, given, f_noise, f_imbalance).item() for given in (target, soft)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_an_output_beyond_the_classes_takes_no_part():
    logits, target, f_noise, f_imbalance = batch(10)
    wide = torch.cat([logits, torch.zeros(N, 1, dtype=torch.float64)], 1).requires_grad_()
    loss = DSinkLoss(DrainageLoss(), weight=2.0, tol=1e-12)
    assert loss.extra_outputs == 1
    assert loss.make_head(3, C)(torch.zeros(1, 3)).shape == (1, C + 1)
    pull = loss(wide, target, f_noise, f_imbalance) - DrainageLoss()(wide, target)
    alone = 2 * DSinkLoss(Nothing(), tol=1e-12)(logits, target, f_noise, f_imbalance)
    assert pull.item() == pytest.approx(alone.item(), abs=1e-10)
    (gradient,) = torch.autograd.grad(pull, wide)
    assert gradient[:, -1].abs().max().item() < 1e-15


def test_the_base_reads_the_outputs_and_gets_its_columns():
    logits, target, f_noise, f_imbalance = batch(11)
    base = DrainageLoss()
    loss = DSinkLoss(base)
    wide = torch.cat([logits, torch.zeros(N, 1, dtype=torch.float64)], 1)
    for read in ("probabilities", "unknown_score"):
        assert torch.equal(getattr(loss, read)(wide), getattr(base, read)(wide))
    assert torch.equal(loss.label_score(wide, target), base.label_score(wide, target))
    needy = DSinkLoss(NeedsIndex(), weight=0.0)
    assert needy.needs == ("noise_robust_logits", "imbalance_robust_logits", "progress", "index")
    value = needy(logits, target, f_noise, f_imbalance, index=torch.arange(N), progress=torch.tensor(0.5))
    assert value.item() == pytest.approx(float(F.cross_entropy(logits, target)) + (N - 1) / 2 + 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision(dtype):
    logits, target, f_noise, f_imbalance = batch(12, dtype=dtype)
    value = DSinkLoss()(logits, target, f_noise, f_imbalance)
    assert value.dtype == torch.float32
    wide = DSinkLoss()(logits.double(), target, f_noise.double(), f_imbalance.double())
    assert value.item() == pytest.approx(wide.item(), rel=1e-5)


def test_sharp_and_masked_logits_stay_finite():
    logits, target, f_noise, f_imbalance = batch(13, dtype=torch.float32, scale=1.0)
    logits = (1e4 * logits).requires_grad_()
    value = DSinkLoss()(logits, target, 1e4 * f_noise, f_imbalance)
    value.backward()
    assert value.isfinite()
    assert bool(logits.grad.isfinite().all())
    f_noise[:, 0] = f_imbalance[:, 0] = -math.inf  # a class that neither auxiliary may give
    moderate = (logits / 1e4).detach().requires_grad_()
    value = DSinkLoss()(moderate, target, f_noise, f_imbalance)
    value.backward()
    assert value.isfinite()
    assert bool(moderate.grad.isfinite().all())
    q = dsink_labels(f_noise, moderate, f_imbalance).labels
    assert q[:, 0].abs().max().item() == 0


def test_the_last_potential_starts_the_next_solution():
    logits, target, f_noise, f_imbalance = batch(14, n=500)
    loss = DSinkLoss(tol=1e-10)
    loss(logits, target, f_noise, f_imbalance)
    cold = loss.diagnostics["solver_iterations"]
    assert cold > 0
    loss(logits + 0.01, target, f_noise, f_imbalance)
    assert loss.diagnostics["solver_iterations"] == 0
    assert "potential" in loss.state_dict()


def test_diagnostics_by_hand():
    logits, target, f_noise, f_imbalance = batch(15)
    loss = DSinkLoss(max_iter=1, tol=1e-12)
    loss(logits, target, f_noise, f_imbalance)
    totals = f_imbalance.softmax(1).sum(0)
    result = dsink_labels(f_noise, logits, f_imbalance, max_iter=1, tol=1e-12)
    counts = torch.bincount(target, minlength=C)
    told = loss.diagnostics
    assert told["totals_to_counts"] == pytest.approx(float((totals - counts).abs().sum()) / N)
    assert told["marginal_error"] == pytest.approx(result.error)
    assert told["marginal_error"] == pytest.approx(float((result.labels.sum(0) - totals).abs().sum()) / N)
    assert told["kl_target"] == pytest.approx(kl(result.labels, logits.softmax(1)))
    assert (told["solver_iterations"], told["solver_converged"]) == (1, 0.0)


def test_a_queue_of_one_batch_is_the_batch():
    data = batch(16, dtype=torch.float32)
    queue = DSinkLoss(granularity="queue", queue_size=N)
    queue.setup(num_samples=1000, class_counts=torch.ones(C))
    assert queue(*data).item() == pytest.approx(DSinkLoss()(*data).item(), abs=1e-5)


def test_a_queue_remembers_the_last_samples():
    batches = [batch(seed, n=10, dtype=torch.float32) for seed in range(4)]
    loss = DSinkLoss(granularity="queue", queue_size=25, tol=1e-7)
    loss.setup(num_samples=1000, class_counts=torch.ones(C))
    for logits, target, f_noise, f_imbalance in batches:
        loss(logits, target, f_noise, f_imbalance)
    last = [torch.cat([one[k] for one in batches])[-25:] for k in range(4)]
    expected = dsink_labels(last[2], last[0], last[3], tol=1e-7)
    assert float((loss.potential - expected.potential).abs().max()) < 1e-5


def test_the_data_set_is_solved_as_one_and_old_rows_are_replaced():
    logits, target, f_noise, f_imbalance = batch(17, n=60, dtype=torch.float32)
    loss = DSinkLoss(Nothing(), granularity="dataset", solve_every=1, tol=1e-7)
    loss.setup(num_samples=60, class_counts=torch.ones(C))
    assert loss.needs == ("noise_robust_logits", "imbalance_robust_logits", "progress", "index")
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5))
    for stale in (True, False):  # the second pass replaces what the first one left
        for rows in order.split(20):
            z = logits[rows] + stale * torch.randn(20, C)
            value = loss(z, target[rows], f_noise[rows], f_imbalance[rows], index=rows)
    everything = dsink_labels(f_noise, logits, f_imbalance, tol=1e-7)
    assert float((loss.potential - everything.potential).abs().max()) < 1e-5
    q, rows = everything.labels, order.split(20)[-1]
    expected = kl(q[rows], f_noise[rows].softmax(1)) + kl(q[rows], logits[rows].softmax(1))
    assert value.item() == pytest.approx(expected, abs=1e-5)


def test_the_data_set_is_solved_now_and_then():
    loss = DSinkLoss(granularity="dataset", solve_every=3)
    loss.setup(num_samples=N, class_counts=torch.ones(C))
    potentials = []
    for step in range(5):
        loss(*batch(step, dtype=torch.float32), index=torch.arange(N))
        potentials.append(loss.potential)
    assert torch.equal(potentials[0], potentials[2])
    assert not torch.equal(potentials[2], potentials[3])
    assert torch.equal(potentials[3], potentials[4])


def test_what_is_remembered_stays_out_of_the_saved_model():
    loss = DSinkLoss(granularity="dataset")
    model = Model(nn.Linear(2, C), loss)
    loss.setup(num_samples=N, class_counts=torch.ones(C))
    assert {"objective.potential"} == {name for name in model.inference_state() if name.startswith("objective")}
    assert model.state_dict()["objective.seen_scores"].shape == (N, C)


def test_resumed_from_a_state_it_goes_on_alike():
    first, second = (DSinkLoss(granularity="queue", queue_size=64) for _ in range(2))
    for loss in (first, second):
        loss.setup(num_samples=1000, class_counts=torch.ones(C))
    for seed in range(3):
        first(*batch(seed, dtype=torch.float32))
    second.load_state_dict(first.state_dict())
    data = batch(9, dtype=torch.float32)
    assert first(*data).item() == second(*data).item()


@pytest.mark.parametrize(
    ("teacher", "labels"),
    [
        ("noise-robust", lambda f, noise, imbalance: noise),
        ("imbalance-robust", lambda f, noise, imbalance: imbalance),
        ("geometric-mean", lambda f, noise, imbalance: F.normalize((f * noise).sqrt(), p=1, dim=1)),
        ("projection", lambda f, noise, imbalance: sinkhorn_labels(noise.log(), imbalance.sum(0), tol=1e-12).labels),
    ],
)
def test_what_a_sceptic_would_try(teacher, labels):
    logits, target, f_noise, f_imbalance = batch(18)
    logits.requires_grad_()
    loss = DSinkLoss(weight=0.5, teacher=teacher, tol=1e-12)
    value = loss(logits, target, f_noise, f_imbalance)
    f, noise, imbalance = (x.detach().softmax(1) for x in (logits, f_noise, f_imbalance))
    q = labels(f, noise, imbalance)
    divergence = kl(q, f) + (kl(q, noise) if teacher == "geometric-mean" else 0)
    base = float(F.cross_entropy(logits.detach(), target))
    assert value.item() == pytest.approx(base + 0.5 * divergence, abs=1e-10)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = ((f - F.one_hot(target, C)) + 0.5 * (f - q)) / N
    assert float((gradient - expected).abs().max()) < 1e-10


def test_a_teacher_asks_only_for_what_it_reads():
    logits, target, f_noise, f_imbalance = batch(22)
    for teacher, needs in (
        ("geometric-mean", ("noise_robust_logits", "progress")),
        ("noise-robust", ("noise_robust_logits", "progress")),
        ("imbalance-robust", ("imbalance_robust_logits", "progress")),
    ):
        loss = DSinkLoss(teacher=teacher)
        assert loss.needs == needs
        given = {"noise_robust_logits": f_noise, "imbalance_robust_logits": f_imbalance}
        alone = loss(logits, target, **{needs[0]: given[needs[0]]})
        assert alone.item() == loss(logits, target, f_noise, f_imbalance).item()
        with pytest.raises(ValueError, match=f"teacher '{teacher}' needs {needs[0]}: give those"):
            loss(logits, target, **{name: x for name, x in given.items() if name != needs[0]})


def test_a_floor_opens_classes_that_the_noise_robust_model_rules_out():
    logits, target, _, f_imbalance = batch(23)
    f_noise = torch.full((N, C), -math.inf, dtype=torch.float64)
    f_noise[:, 0] = 0.0  # sure of class 0 for every sample
    with pytest.raises(ValueError, match="a class with a total above 0 is forbidden to every sample"):
        DSinkLoss()(logits, target, f_noise, f_imbalance)
    q = dsink_labels(f_noise, logits, f_imbalance, min_prob=1e-8, tol=1e-10).labels
    assert float((q.sum(0) - f_imbalance.softmax(1).sum(0)).abs().max()) < 1e-8
    value = DSinkLoss(Nothing(), min_prob=1e-8)(logits, target, f_noise, f_imbalance)
    floored = F.normalize(f_noise.softmax(1).clamp(min=1e-8), p=1, dim=1)
    assert value.item() == pytest.approx(kl(q, floored) + kl(q, logits.softmax(1)), rel=1e-4)


def test_a_relaxation_lies_between_the_totals_and_none():
    data = batch(19)
    exact, free = DSinkLoss(Nothing())(*data).item(), DSinkLoss(Nothing(), teacher="geometric-mean")(*data).item()
    between = DSinkLoss(Nothing(), relaxation=5.0)(*data).item()
    assert free < between < exact


def test_corrected_and_damaged_by_hand():
    clean = torch.tensor([0, 1, 2, 0, 1, 2, -1])
    given = torch.tensor([1, 1, 2, 2, 0, 2, 0])  # wrong at 0, 3, 4
    predicted = torch.tensor([0, 1, 0, 0, 2, 2, 0])  # 0 and 3 corrected; of 1, 2, 5 the second damaged
    expected = {"corrected": pytest.approx(2 / 3), "damaged": pytest.approx(1 / 3)}
    assert label_shares(predicted, given, clean) == expected
    assert label_shares(F.one_hot(predicted, 3).double(), given, clean) == expected
    assert math.isnan(label_shares(clean, clean, clean)["corrected"])
    assert label_shares(given, given, clean) == {"corrected": 0.0, "damaged": 0.0}
    with pytest.raises(ValueError, match="labels, given and clean are for 7, 7 and 6 samples"):
        label_shares(predicted, given, clean[:6])


def test_methods_by_name():
    made = {method.name: (method.make or method.cls)() for method in METHODS}
    assert {name: loss.teacher for name, loss in made.items()} == {
        "dsink": "transport",
        "dsink-geometric-mean": "geometric-mean",
        "dsink-projection": "projection",
        "distil-noise-robust": "noise-robust",
        "distil-imbalance-robust": "imbalance-robust",
    }
    assert made["dsink-projection"].granularity == "dataset"
    assert type(made["dsink"].base) is CrossEntropy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": nn.CrossEntropyLoss()}, r"base is CrossEntropyLoss\(\): give an objective, such as CrossEntropy"),
        ({"base": TakesFeatures()}, "TakesFeatures takes more than logits, index and progress"),
        ({"base": NotExclusive()}, "NotExclusive gives probabilities that don't sum to 1"),
        ({"base": CrossEntropy(reduction="none")}, "the reduction of CrossEntropy is 'none'"),
        ({"weight": -1.0}, "weight is -1.0: give a finite number of at least 0"),
        ({"weight": math.inf}, "weight is inf: give a finite number"),
        ({"granularity": "epoch"}, "granularity is 'epoch': choose one of batch, queue, dataset"),
        ({"teacher": "me"}, "teacher is 'me': choose one of transport, geometric-mean, projection"),
        ({"warm_up": 1.5}, "warm_up is 1.5: give a share of training, from 0 to 1"),
        ({"ramp": math.nan}, "ramp is nan: give a share of training, from 0 to 1"),
        ({"kl_weights": (1.0, 0.0)}, r"kl_weights are \(1.0, 0.0\): give two finite numbers"),
        ({"min_prob": 1.0}, "min_prob is 1.0: give a probability of at least 0 and below 1"),
        ({"solve_every": 0}, "solve_every is 0: give a number of steps, at least 1"),
    ],
)
def test_says_what_is_wrong_with_an_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        DSinkLoss(**arguments)


def test_says_what_is_wrong_with_a_batch():
    logits, target, f_noise, f_imbalance = batch(20)
    with pytest.raises(
        ValueError, match=r"noise_robust_logits have shape \(40, 4\) where the model's are \(40, 5\): tra"
    ):
        DSinkLoss()(logits, target, f_noise[:, :4], f_imbalance)
    with pytest.raises(ValueError, match=r"imbalance_robust_logits have shape \(39, 5\)"):
        DSinkLoss()(logits, target, f_noise, f_imbalance[:39])
    with pytest.raises(ValueError, match="scores hold NaN or [+]inf"):
        DSinkLoss()(logits, target, f_noise * math.nan, f_imbalance)
    with pytest.raises(ValueError, match="granularity 'queue' must know the training set: call setup"):
        DSinkLoss(granularity="queue")(logits, target, f_noise, f_imbalance)
    loss = DSinkLoss(granularity="dataset")
    loss.setup(num_samples=N, class_counts=torch.ones(C))
    with pytest.raises(ValueError, match='granularity "dataset" needs index'):
        loss(logits, target, f_noise, f_imbalance)
    loss = DSinkLoss(granularity="queue", queue_size=8)
    loss.setup(num_samples=N, class_counts=torch.ones(C))
    with pytest.raises(ValueError, match="queue_size is 8 and a batch has 40 samples: give at least that"):
        loss(logits, target, f_noise, f_imbalance)


def test_inside_a_compiled_model():
    logits, target, f_noise, f_imbalance = batch(21, dtype=torch.float32)
    loss = DSinkLoss()
    compiled = torch.compile(lambda z: loss(2 * z, target, f_noise, f_imbalance), backend="aot_eager")
    gradients = [
        torch.autograd.grad(f(logits.requires_grad_()), logits)[0]
        for f in (compiled, lambda z: loss(2 * z, target, f_noise, f_imbalance))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


GRANULARITIES = ("batch", "queue", "dataset")


def _losses(rank, world_size, setup_samples):
    """Two steps of every granularity over one process's rows: value, gradient, potential."""
    told = {}
    for granularity in GRANULARITIES:
        loss = DSinkLoss(Nothing(), granularity=granularity, queue_size=60, solve_every=1, tol=1e-9)
        loss.setup(num_samples=setup_samples, class_counts=torch.ones(C))
        for seed in (0, 1):
            logits, target, f_noise, f_imbalance = batch(seed, dtype=torch.float32)
            rows = torch.arange(N).chunk(world_size)[rank]
            z = logits[rows].requires_grad_()
            value = loss(z, target[rows], f_noise[rows], f_imbalance[rows], index=rows)
            (gradient,) = torch.autograd.grad(value / world_size, z)
        told[granularity] = (value.detach(), gradient, loss.state_dict())
    return told


def _process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_losses(rank, 2, N), f"{folder}/{rank}.pt")
    leave_process_group()


def test_two_processes_learn_what_one_learns(tmp_path):
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for granularity, (value, gradient, state) in _losses(0, 1, N).items():
        ours = [rank[granularity] for rank in (first, second)]
        assert (ours[0][0] + ours[1][0]).item() / 2 == pytest.approx(value.item(), abs=1e-5)
        torch.testing.assert_close(torch.cat([ours[0][1], ours[1][1]]), gradient, rtol=1e-4, atol=1e-7)
        for name, expected in state.items():
            assert torch.equal(ours[0][2][name].nan_to_num(), ours[1][2][name].nan_to_num()), name
            torch.testing.assert_close(ours[0][2][name], expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_trains_in_the_loop(granularity):
    dataset = make_dataset()
    loss = DSinkLoss(granularity=granularity, solve_every=2)
    torch.manual_seed(0)
    auxiliary = 2.0 * F.one_hot(torch.from_numpy(dataset.labels), 3).float()
    columns = {"noise_robust_logits": auxiliary, "imbalance_robust_logits": auxiliary}
    config = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, threads=1, device="cpu")
    history = train(Model(Net(loss), loss), dataset, config, columns=columns).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert loss.diagnostics["solver_converged"] == 1


def test_learns_both_strengths():
    """f_N knows the classes but blurs the rare ones away, f_L knows how many there are: f gets the rare ones back."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), 3000, replacement=True, generator=generator)
    evidence = 2.5 * F.one_hot(clean, 3) + torch.randn(3000, 3, generator=generator)
    f_noise = evidence + torch.tensor([2.0, 0.0, -2.0])
    f_imbalance = (0.8 * F.one_hot(clean, 3) + 0.2 / 3).log()
    q = dsink_labels(f_noise, f_noise, f_imbalance).labels
    rare = clean == 2
    assert float((q.argmax(1) == clean)[rare].double().mean()) > 2 * float(
        (f_noise.argmax(1) == clean)[rare].double().mean()
    )


def test_is_offered_by_the_package():
    for name in ("DSinkLoss", "SinkhornLabels", "sinkhorn_labels"):
        assert name in ct.__all__
