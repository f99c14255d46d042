"""The script docs/examples/quantile_toy.py does what docs/quantile.md says, at reduced size."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "quantile_toy.py"


def load():
    spec = importlib.util.spec_from_file_location("example_quantile_toy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = load()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_opposite_angles_differ_in_their_labels_alone_once_the_mean_is_gone():
    """Why batch normalisation of the first projection makes the task unsolvable."""
    angle = 0.3
    batches = []
    for t in (angle, angle + torch.pi):
        at = torch.tensor([t, t + toy.APART])
        centres = torch.stack([at.cos(), at.sin()], 1)
        batches.append(centres - centres.mean(0))
    torch.testing.assert_close(batches[0][0], batches[1][1])
    torch.testing.assert_close(batches[0][1], batches[1][0])


def test_batches_hold_both_classes_at_their_angles():
    x, y = toy.make_batch(torch.Generator().manual_seed(0))
    assert x.shape == (256, 2)
    assert torch.bincount(y).tolist() == [128, 128]
    centres = torch.stack([x[y == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(2), rtol=0, atol=0.05)
    turn = torch.atan2(centres[:, 1], centres[:, 0]).diff() % (2 * torch.pi)
    assert turn.item() == pytest.approx(toy.APART, abs=0.05)


@pytest.mark.parametrize("name", ["ReLU, quantile, quantile", "ReLU, BN ReLU, BN ReLU"])
def test_solved_by_batch_statistics_after_a_pointwise_layer(name):
    result = toy.run(name, 0, steps=200, test_batches=50)
    assert result["accuracy"] > 0.98
    assert result["p5"] > 0.9


@pytest.mark.parametrize("name", ["ReLU, ReLU", "BN ReLU, BN ReLU", "quantile, quantile"])
def test_not_solved_point_by_point_nor_where_the_first_projection_is_centred(name):
    result = toy.run(name, 0, steps=150, test_batches=50)
    assert 0.3 < result["accuracy"] < 0.7
    assert result["p5"] < 0.3


def test_the_picture_is_drawn(tmp_path):
    toy.draw(tmp_path / "shift.png")
    picture = Image.open(tmp_path / "shift.png")
    assert picture.size == (1040, 256)
    assert (tmp_path / "shift.png").stat().st_size < 100_000
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
