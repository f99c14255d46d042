"""The scripts of docs/examples do what the pages beside them say, at reduced size."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catchment import CrossEntropy, DrainageHead, DrainageLoss, open_probabilities
from catchment.metrics import auroc

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = load("toy")
segmentation = load("segmentation")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_picture(path, size):
    picture = Image.open(path)
    assert picture.format == "PNG"
    assert picture.size == pytest.approx(size, abs=1)  # versions of matplotlib round differently
    assert path.stat().st_size < 150_000
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


# ---- the toy


def test_toy_points_are_what_the_page_says():
    points = toy.make_points(3, per_class=100)
    nobody = points.true == toy.NOBODY
    assert torch.bincount(points.true).tolist() == [100, 100, 100, 50]
    assert set(points.given.tolist()) == {0, 1, 2}
    assert (points.given != points.true)[~nobody].sum() == 30
    again, other = toy.make_points(3, per_class=100), toy.make_points(4, per_class=100)
    assert torch.equal(points.features, again.features)
    assert torch.equal(points.given, again.given)
    assert not torch.equal(points.features, other.features)


def test_toy_measures_a_network_worked_out_by_hand():
    # drainage right of x = 0, class 0 left of it; three training points, one of them right of it
    def net(x):
        side = x[:, :1]
        return torch.cat([-side, torch.full_like(side, -9.0), torch.full_like(side, -9.0), side], 1)

    features = torch.tensor([[-2.0, 0.0], [-3.0, 0.0], [4.0, 0.0]])
    points = toy.Points(features, torch.tensor([0, 1, toy.NOBODY]), torch.tensor([0, 0, 2]))
    result = toy.measure(net, points)
    assert result["area"] == pytest.approx(100 / 201)
    assert result["right labels"] == 0.0
    assert result["wrong labels"] == 0.0
    assert result["nobody's points"] == 1.0
    assert result["accuracy"] == 0.5
    assert toy.agreement(net, net, points) == 1.0
    assert toy.agreement(net, lambda x: torch.tensor([0.0, 0.0, 1.0, 2.0]).expand(len(x), 4), points) == 0.0


def test_any_learned_z_d_is_some_constant_one():
    """Row differences of the head turn a learned z_d into a constant: the two express the same functions."""
    torch.manual_seed(0)
    features = torch.randn(50, 8)
    learned, constant = DrainageHead(8, 3), DrainageHead(8, 3, constant=-5.0)
    rows = learned.classifier
    with torch.no_grad():
        constant.classifier.layer.weight.copy_(rows.weight[:3] - rows.weight[3])
        constant.classifier.layer.bias.copy_(rows.bias[:3] - rows.bias[3] - 5.0)
    torch.testing.assert_close(open_probabilities(constant(features)), open_probabilities(learned(features)))
    target = torch.arange(50) % 3
    loss = DrainageLoss(0.3)
    torch.testing.assert_close(loss(constant(features), target), loss(learned(features), target))


def test_toy_drains_more_as_beta_grows_and_less_as_alpha_does():
    points = toy.make_points(0, per_class=100)

    def drained(alpha, beta):
        return toy.measure(toy.train(points, alpha=alpha, beta=beta, steps=150), points)

    low, middle, high = drained(1.0, 0.1), drained(1.0, 1.0), drained(1.0, 10.0)
    assert 0.0 <= low["area"] < 0.02
    assert low["area"] <= middle["area"] < high["area"] - 0.05
    assert drained(10.0, 10.0)["area"] < high["area"] - 0.05
    assert high["area"] < drained(0.1, 10.0)["area"] < 1.0
    assert high["nobody's points"] > 0.8
    assert high["right labels"] < 0.1
    assert high["accuracy"] > 0.95


def test_toy_constant_decides_by_where_training_starts():
    rows = toy.compare_constants(range(1), steps=100, per_class=50)

    def mean(variant, number):
        return np.mean([row[number] for row in rows[variant]])

    assert all(0 <= value <= 1 for variant in rows.values() for row in variant for value in row.values())
    assert abs(mean("constant 0", "area") - mean("learned", "area")) < 0.05
    assert mean("constant -5", "area") > mean("learned", "area")
    assert mean("constant -5", "area elsewhere") > mean("learned", "area elsewhere") + 0.03
    assert mean("learned", "same class") == 1.0
    assert mean("constant 0", "same class") > 0.8


def test_toy_draws_its_pictures(tmp_path):
    toy.draw_constants(tmp_path / "toy.png", steps=5)
    toy.draw_alpha_beta(tmp_path / "toy-alpha-beta.png", steps=5)
    check_picture(tmp_path / "toy.png", (840, 950))
    check_picture(tmp_path / "toy-alpha-beta.png", (840, 920))


# ---- segmentation


@pytest.fixture(scope="module")
def scenes():
    return segmentation.make_scenes(32, np.random.default_rng(0))


def test_scenes_are_what_the_page_says(scenes):
    assert scenes.images.shape == (32, 3, 64, 64)
    assert set(scenes.given.unique().tolist()) == {-100, 0, 1, 2}
    assert set(scenes.true.unique().tolist()) == {-100, 0, 1, 2, 3}
    assert torch.equal(scenes.given == -100, scenes.true == -100)
    at_nobody = scenes.given[scenes.true == segmentation.NOBODY]
    assert torch.bincount(at_nobody, minlength=3).min() > 0.1 * len(at_nobody)
    background = scenes.true == 0
    assert torch.equal(scenes.given[background], scenes.true[background])
    again = segmentation.make_scenes(32, np.random.default_rng(0))
    assert torch.equal(scenes.images, again.images)


@pytest.mark.parametrize("objective", [DrainageLoss(0.3), CrossEntropy()], ids=["drainage", "cross-entropy"])
def test_void_pixels_get_no_gradient(scenes, objective):
    torch.manual_seed(0)
    logits = torch.randn(4, 3 + objective.extra_outputs, 64, 64, requires_grad=True)
    given = scenes.given[:4]
    void = given == segmentation.VOID
    loss = objective(logits, given)
    (gradient,) = torch.autograd.grad(loss, logits)
    largest = gradient.abs().amax(1)
    assert void.sum() > 100
    assert (largest[void] == 0).all()
    assert (largest[~void] > 0).all()
    # nor does the mean count them
    without_void = objective(logits.movedim(1, -1)[~void], given[~void])
    torch.testing.assert_close(loss, without_void)


def test_segmentation_drains_the_objects_of_no_class(scenes):
    test = segmentation.make_scenes(8, np.random.default_rng(1))
    objective = DrainageLoss(0.1)
    net = segmentation.train(objective, scenes, seed=0, epochs=10)
    result = segmentation.measure(objective, net, test)
    assert result["accuracy"] > 0.9
    assert result["AUROC p_d"] > 0.8
    assert result["drained: nobody's"] > 0.8
    assert result["background"] < 0.1
    with torch.no_grad():
        p_d = open_probabilities(net(test.images))[:, 3]
    assert p_d.shape == (8, 64, 64)
    counted = test.true != segmentation.VOID
    assert auroc(p_d[counted], test.true[counted] == segmentation.NOBODY) == result["AUROC p_d"]


def test_segmentation_prints_and_draws(tmp_path, capsys):
    segmentation.draw(tmp_path / "segmentation.png", train_count=8, epochs=1)
    check_picture(tmp_path / "segmentation.png", (840, 720))
    nan = float("nan")
    segmentation.print_table({"a": [{"x": 0.25, "y": nan}, {"x": 0.75, "y": nan}]})
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "50.0", "±", "35.4", "-"]
