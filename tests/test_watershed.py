import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from torch.autograd import gradcheck, gradgradcheck

from catchment import Combined, CrossEntropy, Model
from catchment.data import InputFormat, load_data
from catchment.metrics import map_at_k
from catchment.nets import create_net, input_statistics
from catchment.objective import Method, Objective
from catchment.training import TrainingConfig, train
from catchment.training.batches import inputs_on_device
from catchment.watershed import (
    METHODS,
    TripletLoss,
    WatershedLoss,
    draw_seeds,
    seeded_watershed,
    watershed_loss,
)


def random_batch(samples=24, classes=3, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, width, generator=generator, dtype=dtype)
    return features, torch.randint(classes, (samples,), generator=generator)


def clusters(apart, per_class=20, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(classes).repeat_interleave(per_class)
    centres = apart * torch.eye(classes, 6)
    return centres[target] + 0.1 * torch.randn(len(target), 6, generator=generator), target


def greedy(distances, seed_labels):
    """The definition, word for word: the open sample nearest to any that has a class takes that class."""
    labels = list(seed_labels)
    while True:
        pairs = [
            (distances[i][j], i, j)
            for i in range(len(labels)) if labels[i] < 0
            for j in range(len(labels)) if labels[j] >= 0 and math.isfinite(distances[i][j])
        ]  # fmt: skip
        if not pairs:
            return labels
        _, i, j = min(pairs)
        labels[i] = labels[j]


def reference_loss(features, target, seeds, classes):
    """Equation 11 with loops, in float64."""
    x, y = features.double().numpy(), target.tolist()
    d = [[math.dist(a, b) for b in x] for a in x]
    labels = greedy(d, [c if s else -1 for c, s in zip(y, seeds.tolist(), strict=True)])
    losses = []
    for i, own in enumerate(y):
        members = {c: [j for j in range(len(y)) if j != i and labels[j] == y[j] == c] for c in range(classes)}
        logits = {c: -min(d[i][j] for j in js) for c, js in members.items() if js}
        if own in logits:
            top = max(logits.values())
            losses.append(math.log(sum(math.exp(z - top) for z in logits.values())) + top - logits[own])
    return sum(losses) / max(len(losses), 1)


# ---- propagation


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_propagation_is_the_greedy_definition(number, classes, seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(number, 2)))
    seed_labels = torch.from_numpy(np.where(rng.random(number) < 0.4, rng.integers(classes, size=number), -1))
    distances = torch.cdist(x, x)
    assert seeded_watershed(distances, seed_labels).tolist() == greedy(distances.tolist(), seed_labels.tolist())


def test_propagation_from_one_seed_a_class_cuts_the_spanning_tree():
    """With two seeds the classes are what is left when the longest edge between them leaves the spanning tree."""
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(60, 2)))
    seed_labels = torch.full((60,), -1)
    seed_labels[5], seed_labels[17] = 0, 1
    labels = seeded_watershed(torch.cdist(x, x), seed_labels)
    tree = minimum_spanning_tree(torch.cdist(x, x).numpy()).tocoo()
    edges = sorted(zip(tree.data, tree.row, tree.col, strict=True))
    group = list(range(60))  # Kruskal's order; the edge that would join the two seeds is the one left out
    for _, a, b in edges:
        if {group[a], group[b]} != {group[5], group[17]}:
            group = [group[a] if g == group[b] else g for g in group]
    assert labels.tolist() == [0 if g == group[5] else 1 for g in group]
    assert set(labels.tolist()) == {0, 1}


def test_propagation_follows_a_chain_rather_than_the_nearest_seed():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.5]])
    assert seeded_watershed(torch.cdist(x, x), torch.tensor([0, -1, -1, -1, -1, 1])).tolist() == [0, 0, 0, 0, 0, 1]


def test_one_seed_a_class_labels_separated_clusters_completely():
    features, target = clusters(apart=10.0)
    for seed in range(5):
        seeds = draw_seeds(target, generator=torch.Generator().manual_seed(seed))
        assert seeds.sum() == 4
        labels = seeded_watershed(torch.cdist(features, features), target.masked_fill(~seeds, -1))
        assert torch.equal(labels, target)


def test_what_no_finite_distance_reaches_has_no_class():
    inf = math.inf
    distances = torch.tensor([[0.0, 1.0, inf], [1.0, 0.0, inf], [inf, inf, 0.0]])
    assert seeded_watershed(distances, torch.tensor([4, -1, -1])).tolist() == [4, 4, -1]
    assert seeded_watershed(distances, torch.tensor([-1, -1, -1])).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match=r"\(3, 3\) and seed_labels \(2,\): give \(N, N\) and \(N,\)"):
        seeded_watershed(distances, torch.tensor([0, 1]))


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_seeds_are_so_many_of_each_class_and_any_of_them(per_class):
    target = torch.tensor([2, 0, 0, 2, -100, 0, 0, 5, 0])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_seeds(target, per_class, generator=generator) for _ in range(300)])
    for label, count in ((0, 5), (2, 2), (5, 1), (-100, 0)):
        assert (drawn[:, target == label].sum(1) == min(per_class, count)).all()
    share = drawn[:, target == 0].float().mean(0)
    assert (share - min(per_class, 5) / 5).abs().max() < 0.09  # 3 standard deviations of 300 draws


# ---- the loss


def test_loss_by_hand():
    features = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64)
    target = torch.tensor([0, 0, 1, 1])
    seeds = torch.tensor([True, False, True, False])
    # distances to the own class are 1; to the other one 5, 4, 4, 5
    expected = (2 * math.log1p(math.exp(-4)) + 2 * math.log1p(math.exp(-3))) / 4
    assert watershed_loss(features, target, seeds, num_classes=2).item() == pytest.approx(expected, rel=1e-6)
    # the norm is not squared
    assert watershed_loss(2 * features, target, seeds, num_classes=2).item() == pytest.approx(
        (math.log1p(math.exp(-8)) + math.log1p(math.exp(-6))) / 2, rel=1e-6
    )


@pytest.mark.parametrize(("samples", "classes", "per_class"), [(24, 3, 1), (40, 10, 1), (30, 4, 3), (6, 6, 1)])
def test_loss_is_equation_11(samples, classes, per_class):
    for seed in range(4):
        features, target = random_batch(samples, classes, seed=seed)
        seeds = draw_seeds(target, per_class, generator=torch.Generator().manual_seed(seed))
        value = watershed_loss(features, target, seeds, num_classes=classes).item()
        assert value == pytest.approx(reference_loss(features, target, seeds, classes), rel=1e-9, abs=1e-12)


def test_members_that_another_class_reached_are_no_neighbours():
    # class 1's second member lies amid class 0, which reaches it
    features = torch.tensor([[0.0], [1.0], [2.0], [1.5], [9.0], [10.0]], dtype=torch.float64)
    target = torch.tensor([0, 0, 0, 1, 1, 1])
    seeds = torch.tensor([True, False, False, False, True, False])
    distances = torch.cdist(features, features)
    assert seeded_watershed(distances, target.masked_fill(~seeds, -1)).tolist() == [0, 0, 0, 0, 1, 1]
    own, other = torch.tensor([1, 1, 1, 7.5, 1, 1]), torch.tensor([9, 8, 7, 0.5, 7, 8])
    expected = F.softplus(own - other).mean().item()
    assert watershed_loss(features, target, seeds, num_classes=2).item() == pytest.approx(expected, rel=1e-6)


def test_a_sample_without_another_member_leaves_the_mean():
    features = torch.tensor([[0.0], [1.0], [4.0]], requires_grad=True)
    target = torch.tensor([0, 0, 1])
    seeds = torch.tensor([True, False, True])
    loss = watershed_loss(features, target, seeds, num_classes=2)
    expected = (math.log1p(math.exp(1 - 4)) + math.log1p(math.exp(1 - 3))) / 2  # over two samples, not three
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # it is still a neighbour, and as such gets a gradient
    assert torch.autograd.grad(loss, features)[0][2] < 0
    alone = watershed_loss(features[1:], target[1:], seeds[[0, 2]], num_classes=2)
    assert alone.item() == 0
    assert torch.equal(torch.autograd.grad(alone, features)[0], torch.zeros(3, 1))


def test_absent_classes_leave_the_denominator():
    features, target = random_batch(20, 3)
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(0))
    three = watershed_loss(features, target, seeds, num_classes=3)
    assert torch.equal(watershed_loss(features, target, seeds, num_classes=50), three)
    one_class = torch.zeros_like(target)
    assert watershed_loss(features, one_class, draw_seeds(one_class), num_classes=3).item() == 0


def test_left_out_samples_are_as_if_not_there():
    features, target = random_batch(20, 3)
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(0))
    left_out = ~seeds & (torch.arange(20) % 3 == 0)
    given = target.masked_fill(left_out, -100)
    x = features.clone().requires_grad_()
    loss = watershed_loss(x, given, seeds, num_classes=3)
    kept = ~left_out
    assert torch.equal(loss, watershed_loss(features[kept], target[kept], seeds[kept], num_classes=3))
    gradient = torch.autograd.grad(loss, x)[0]
    assert (gradient[left_out] == 0).all()
    assert (gradient[kept] != 0).any(1).all()


@pytest.mark.parametrize("target", [torch.tensor([], dtype=torch.long), torch.tensor([-100, -100])])
def test_an_empty_batch_is_0_with_gradient_0(target):
    features = torch.ones(len(target), 4, requires_grad=True)
    loss = WatershedLoss(3)(features, target)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, features)[0], torch.zeros_like(features))


def test_loss_goes_to_0_as_clusters_separate():
    seeds = draw_seeds(clusters(1.0)[1], generator=torch.Generator().manual_seed(0))
    losses = [watershed_loss(*clusters(apart), seeds, num_classes=4).item() for apart in (2.0, 4.0, 8.0, 16.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0.1
    assert losses[-1] < 1e-8


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_loss_is_log_of_the_classes_where_all_distances_are_equal(classes):
    features = torch.eye(2 * classes, dtype=torch.float64)  # all pairs are sqrt(2) apart
    target = torch.arange(classes).repeat(2)
    seeds = torch.ones(2 * classes, dtype=torch.bool)  # with ties the propagation itself is arbitrary
    value = watershed_loss(features, target, seeds, num_classes=classes)
    assert value.item() == pytest.approx(math.log(classes), rel=1e-12)


def test_translation_and_rotation_change_nothing():
    features, target = random_batch(40, 4)
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(random_batch(5, 2, width=5, seed=9)[0])[0]

    def value_and_grad(x):
        x = x.clone().requires_grad_()
        loss = watershed_loss(x, target, seeds, num_classes=4)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    value, gradient = value_and_grad(features)
    torch.testing.assert_close(value_and_grad(features + 100.0), (value, gradient), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(value_and_grad(features @ rotation), (value, gradient @ rotation), rtol=1e-9, atol=1e-12)
    assert gradient.sum(0).abs().max() < 1e-14  # so does no step move the whole


def test_an_offset_costs_few_digits_in_float32():
    features, target = random_batch(40, 4)
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(1))
    moved = (features + 1000).float()
    exact, rounded = moved.double().requires_grad_(), moved.requires_grad_()
    expected = watershed_loss(exact, target, seeds, num_classes=4)
    value = watershed_loss(rounded, target, seeds, num_classes=4)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = torch.autograd.grad(value, rounded)[0], torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-6)


# ---- gradients


def test_gradient_is_exact():
    features, target = random_batch(9, 3, width=3)
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(0))

    def loss(x):
        return watershed_loss(x, target, seeds, num_classes=3)

    assert gradcheck(loss, (features.requires_grad_(),))
    assert gradgradcheck(loss, (features,))


def test_gradient_flows_to_both_ends():
    features = torch.tensor([[0.0], [1.0], [5.0], [6.0]], requires_grad=True)
    target, seeds = torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool)
    loss = watershed_loss(features, target, seeds, num_classes=2)
    # with d to the own and e to the other class, each adds softplus(d - e) / 4, of slope sigmoid(d - e) / 4
    outer, inner = (1 / (4 * (1 + math.exp(gap))) for gap in (5 - 1, 4 - 1))
    first = -(outer + inner) + outer  # |f0 - f1| counts for both, |f0 - f2| for f0
    second = (outer + inner) + 2 * inner + outer  # |f1 - f2| counts for both, |f1 - f3| for f3
    gradient = torch.autograd.grad(loss, features)[0].flatten().tolist()
    assert gradient == pytest.approx([first, second, -second, -first], rel=1e-5)


def test_duplicates_have_finite_gradients():
    features = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [3.0, 0.0]], requires_grad=True)
    target = torch.tensor([0, 0, 1, 1, 1])
    loss = watershed_loss(features, target, torch.ones(5, dtype=torch.bool), num_classes=2)
    # 0 to the own class for all but the third, which lies on class 0 and 3 from its own; the last two are 3 away
    expected = (2 * math.log(2) + math.log1p(math.exp(3)) + 2 * math.log1p(math.exp(-3))) / 5
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    gradient = torch.autograd.grad(loss, features)[0]
    assert gradient.isfinite().all()
    assert gradient[2, 0] < 0 < gradient[3:, 0].abs().sum()
    same = torch.ones(6, 3, requires_grad=True)
    loss = WatershedLoss(2)(same, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert torch.equal(torch.autograd.grad(loss, same)[0], torch.zeros(6, 3))


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_finite_at_any_scale(scale):
    features, target = random_batch(30, 4, dtype=torch.float32)
    features = (scale * features).requires_grad_()
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(0))
    loss = watershed_loss(features, target, seeds, num_classes=4)
    assert loss.item() == pytest.approx(reference_loss(features.detach(), target, seeds, 4), rel=1e-4)
    gradient = torch.autograd.grad(loss, features)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 2  # unit vectors, times probabilities, over N


def test_nan_is_not_hidden():
    features, target = random_batch(10, 2)
    features[3, 0] = math.nan
    assert WatershedLoss(2)(features, target).isnan()


# ---- the objective


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    features, target = random_batch(20, 3)
    seeds = draw_seeds(target)
    low = features.to(dtype).requires_grad_()
    loss = watershed_loss(low, target, seeds, num_classes=3)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, watershed_loss(low.float(), target, seeds, num_classes=3))
    assert torch.autograd.grad(loss, low)[0].dtype == dtype


def test_generator_decides_the_seeds():
    features, target = random_batch(40, 4)

    def losses(generator):
        loss = WatershedLoss(4, generator=generator)
        return [loss(features, target).item() for _ in range(5)]

    first = losses(torch.Generator().manual_seed(3))
    assert len(set(first)) > 1
    assert losses(torch.Generator().manual_seed(3)) == first
    torch.manual_seed(3)
    assert losses(None) == first  # PyTorch's own, whose state a checkpoint holds


def test_more_seeds_reach_more():
    features, target = random_batch(60, 3)
    distances = torch.cdist(features, features)

    def reached(per_class):
        generator = torch.Generator().manual_seed(0)
        draws = [draw_seeds(target, per_class, generator=generator) for _ in range(20)]
        right = [seeded_watershed(distances, target.masked_fill(~seeds, -1)) == target for seeds in draws]
        return torch.stack(right).double().mean()

    few, many, all_of_them = reached(1), reached(10), reached(60)
    assert few < many < all_of_them == 1


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long), r"features are torch.float32 of shape \(4, 2, 3\)"),
        (torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long), "give floats"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "give class indices"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.long), r"target has shape \(3,\)"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), "the label 3: give 0 to 2"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "label them -100 to leave them out"),
    ],
)
@pytest.mark.parametrize("loss", [WatershedLoss(3), TripletLoss(3)], ids=["watershed", "triplet"])
def test_says_what_is_wrong(loss, features, target, message):
    with pytest.raises(ValueError, match=message):
        loss(features, target)


def test_says_which_parameter_is_wrong():
    with pytest.raises(ValueError, match="num_classes is 0"):
        WatershedLoss(0)
    with pytest.raises(ValueError, match="seeds_per_class is 0: give a whole number of at least 1"):
        WatershedLoss(3, seeds_per_class=0)
    with pytest.raises(ValueError, match="num_classes is 0"):
        TripletLoss(0)
    with pytest.raises(ValueError, match="margin is -1"):
        TripletLoss(3, margin=-1)
    with pytest.raises(ValueError, match="one bool for each of 2 samples"):
        watershed_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1]), num_classes=2)


def test_combined_with_cross_entropy():
    both = Combined([(CrossEntropy(), 1.0), (WatershedLoss(3, generator=torch.Generator().manual_seed(2)), 0.5)])
    assert both.inputs == ("logits", "features")
    features, target = random_batch(20, 3)
    logits = random_batch(20, 3, width=3, seed=4)[0]
    seeds = draw_seeds(target, generator=torch.Generator().manual_seed(2))
    expected = F.cross_entropy(logits, target) + 0.5 * watershed_loss(features, target, seeds, num_classes=3)
    torch.testing.assert_close(both(logits, features, target), expected)
    with pytest.raises(ValueError, match="put such an objective first"):
        Combined([(WatershedLoss(3), 1.0), (CrossEntropy(), 1.0)])


def test_training_with_it_clusters_the_features():
    dataset = load_data("digits")
    part = dataset.train.select(np.arange(1000))

    def trained(objective):
        torch.manual_seed(0)
        net = create_net("mlp", InputFormat.of(part), objective, input_statistics(part))
        model = Model(net, objective)
        train(model, part, TrainingConfig(epochs=4, learning_rate=0.05, seed=0, threads=1))
        model.eval()
        with torch.no_grad():
            out = model.net(inputs_on_device(dataset.test, torch.device("cpu")))
        labels = dataset.test.labels
        return map_at_k(out["features"].numpy(), labels, 50), (out["logits"].argmax(1).numpy() == labels).mean()

    with_it = trained(Combined([(CrossEntropy(), 1.0), (WatershedLoss(10), 0.5)]))
    without = trained(CrossEntropy())
    assert with_it[0] > without[0] + 0.02
    assert with_it[1] > 0.9


# ---- the triplet loss


def test_triplet_loss_by_hand():
    angle = torch.tensor([0.0, 0.3, 0.5, 2.0], dtype=torch.float64)
    features = 7 * torch.stack([angle.cos(), angle.sin()], 1)  # norms don't count
    target = torch.tensor([0, 0, 1, 1])

    def apart(i, j):
        return 2 * math.sin(abs(angle[i] - angle[j]).item() / 2)

    terms = [
        apart(a, p) - apart(a, n) + 0.2
        for a in range(4)
        for p in range(4) if p != a and target[p] == target[a]
        for n in range(4) if target[n] != target[a]
    ]  # fmt: skip
    assert len(terms) == 8
    positive = [term for term in terms if term > 0]
    assert 0 < len(positive) < 8
    value = TripletLoss(2, margin=0.2)(features, target).item()
    assert value == pytest.approx(sum(positive) / len(positive), rel=1e-6)
    smooth = TripletLoss(2, margin=0.2, smooth=True)(features, target).item()
    assert smooth == pytest.approx(sum(math.log1p(math.exp(term)) for term in terms) / 8, rel=1e-6)


def test_triplet_loss_leaves_samples_out_and_needs_two_classes():
    features, target = random_batch(12, 3)
    loss = TripletLoss(3)
    given = torch.where(torch.arange(12) < 4, -100, target)
    assert torch.equal(loss(features, given), loss(features[4:], target[4:]))
    assert loss(features[4:], target[4:]) > 0
    x = features.clone().requires_grad_()
    for labels in (torch.zeros_like(target), torch.full_like(target, -100)):
        value = loss(x, labels)
        assert value.item() == 0
        assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_triplet_loss_names_the_extra(monkeypatch):
    real = importlib.import_module

    def without(name, *arguments):
        if name.startswith("pytorch_metric_learning"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ValueError, match=r'pip install "catchment\[metric\]"'):
        TripletLoss(3)


# ---- the records


def test_records():
    records = {method.name: method for method in METHODS}
    assert set(records) == {"watershed", "ce-watershed", "triplet", "ce-triplet"}
    for record in METHODS:
        assert isinstance(record, Method)
        assert record.url.startswith("https://")
        made = (record.make or record.cls)(num_classes=10)
        assert isinstance(made, Objective)
        combined = record.name.startswith("ce-")
        assert made.inputs == (("logits", "features") if combined else ("features",))
    both = records["ce-watershed"].make(10, watershed_weight=0.25, seeds_per_class=3)
    assert both.weights == (1.0, 0.25)
    assert both.terms[1].seeds_per_class == 3
    assert records["ce-triplet"].make(10, margin=0.3).terms[1].margin == 0.3
