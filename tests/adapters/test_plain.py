"""What every adapter asks of an objective; needs no framework."""

from pathlib import Path

import pytest

import catchment
from catchment import CrossEntropy, DrainageLoss, Objective
from catchment.adapters import check_plain

ADAPTERS = sorted((Path(catchment.__file__).parent / "adapters").glob("[!_]*.py"))


class Remembers(Objective):
    needs = ("index",)


class Pulls(Objective):
    inputs = ("logits", "features")


def test_objectives_on_logits_and_labels_are_taken():
    objective = DrainageLoss()
    assert check_plain(objective) is objective
    check_plain(CrossEntropy())


@pytest.mark.parametrize(("objective", "what"), [(Remembers(), "index"), (Pulls(), "features")])
def test_others_name_what_they_need(objective, what):
    with pytest.raises(ValueError, match=f"needs {what}: train it by catchment.training.train"):
        check_plain(objective)


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_adapters_stay_short(path):
    assert len(path.read_text().splitlines()) < 30


def test_there_is_a_page_for_each():
    docs = Path(__file__).parents[2] / "docs"
    assert [path.stem for path in ADAPTERS] == ["huggingface", "lightning", "skorch", "timm"]
    assert all((docs / f"with-{path.stem}.md").exists() for path in ADAPTERS)
    assert (docs / "with-pytorch.md").exists()
