import numpy as np
import pytest
from report.pages import Page
from report.run_folders import NAMES, made_up_evaluation, write_run

from catchment.report import write_comparison

DRAINAGE = {"objective": "drainage"}
GCE = {"objective": "gce", "parameters": {"q": 0.7}}


def read(folders, out, **options):
    assert write_comparison(folders, out, **options) == out
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids))
    assert page.unlabelled_boxes == 0
    assert {link[1:] for link in page.references if link.startswith("#")} <= set(page.ids)
    return page


def made_two(folder):
    history = [{"epoch": e, "train_loss": 1.0 / e, "test_accuracy": 0.2 * e} for e in (1, 2, 3)]
    one = made_up_evaluation(unknown=0)
    other = one | {"test_predicted": one["test_label"]}
    return [
        write_run(folder / "a", settings=DRAINAGE, evaluation=one, history=history, test_accuracy=0.75),
        write_run(
            folder / "b", settings=GCE, evaluation=other, history=history, test_accuracy=1.0, objective="gce",
            test_ece=0.125,
        ),
    ]  # fmt: skip


@pytest.fixture
def two(tmp_path):
    return made_two(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def page(folder):
    return read(made_two(folder), folder / "deep" / "comparison.html")


def test_a_column_per_run_and_a_row_per_number(page):
    numbers = page.table("number")
    assert numbers[0] == ["number", "drainage", "gce"]
    assert ["test_accuracy", "0.75", "1"] in numbers
    assert ["test_ece", "-", "0.125"] in numbers
    assert not {"objective", "noise", "data"} & {row[0] for row in numbers}


def test_settings_that_differ_are_shown_and_the_others_once(page):
    assert page.table("setting") == [
        ["setting", "drainage", "gce"],
        ["objective", "drainage", "gce"],
        ["parameters.alpha", "0.1", "-"],
        ["parameters.q", "-", "0.7"],
    ]
    assert ["training.l1", "0.0001"] in page.table("data")


def test_the_figures_are_of_the_arrays(page, folder):
    assert page.table("class")[0] == ["class", "drainage", "gce"]
    assert [row[2] for row in page.table("class")[1:]] == ["1", "1", "1"]
    assert [row[0] for row in page.table("class")[1:]] == NAMES
    arrays = np.load(folder / "a" / "evaluation.npz")
    first = arrays["test_label"] == 0
    share = (arrays["test_predicted"] == 0)[first].mean()
    assert page.table("class")[1][1] == f"{share:.4g}"
    assert any(text.startswith("Training loss per epoch.") for text in page.figures)
    assert any("It chose nothing" in text for text in page.figures)
    assert any("gce 0.0000" in text for text in page.figures if text.startswith("Risk-coverage"))
    assert sum(text.startswith(("drainage. Medians", "gce. Medians")) for text in page.figures) == 2


def test_same_folders_same_bytes_and_nothing_from_elsewhere(page, folder):
    again = write_comparison([folder / "a", folder / "b"], folder / "again.html")
    assert again.read_bytes() == (folder / "deep" / "comparison.html").read_bytes()
    assert all(reference.startswith("#") for reference in page.references)
    assert not page.tags & {"script", "link", "iframe"}


def test_runs_on_different_data_are_allowed_and_said(page, tmp_path):
    assert "can't be compared" not in page.text
    runs = [write_run(tmp_path / name, data=name, history=[]) for name in ("digits", "other <b>")]
    text = read(runs, tmp_path / "c.html").text
    assert "These runs are on different data (digits, other <b>): their numbers can't be compared" in text
    assert "<b>" not in (tmp_path / "c.html").read_text()


def test_other_test_samples_of_the_same_data_are_said(two, tmp_path):
    write_run(two[1], settings=GCE, evaluation=made_up_evaluation(seed=5, unknown=0))
    assert "different test samples or classes" in read(two, tmp_path / "c.html").text


def test_a_run_without_evaluation_is_named(two, tmp_path):
    (two[1] / "evaluation.npz").unlink()
    page = read(two, tmp_path / "c.html")
    assert "missing in the figures of the test set: gce." in page.text
    assert [row[1:] for row in page.table("class")[1:]] != []
    assert all(row[2] == "-" for row in page.table("class")[1:])
    (two[0] / "evaluation.npz").unlink()
    assert "Accuracy per class" not in read(two, tmp_path / "c.html").headings


@pytest.mark.parametrize("count", [0, 1, 13])
def test_two_to_twelve_runs(tmp_path, count):
    folder = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match=f"{count} runs to compare: give 2 to 12 folders"):
        write_comparison([folder] * count, tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_an_unfinished_run_and_names_that_do_not_fit(two, tmp_path):
    with pytest.raises(ValueError, match="3 names for 2 runs"):
        write_comparison(two, tmp_path / "c.html", names=["a", "b", "c"])
    with pytest.raises(ValueError, match="two runs have the same name"):
        write_comparison(two, tmp_path / "c.html", names=["a", "a"])
    (two[1] / "metrics.json").unlink()
    with pytest.raises(ValueError, match="holds no finished run"):
        write_comparison(two, tmp_path / "c.html")


def names_of(folders, out, **options):
    return read(folders, out, **options).table("number")[0][1:]


def test_names_are_the_fewest_settings_that_tell_runs_apart(tmp_path):
    def made(name, **settings):
        return write_run(tmp_path / name, settings=settings, history=[])

    out = tmp_path / "c.html"
    first = made("a", objective="gce", training={"seed": 0})
    assert names_of([first, made("b", objective="gce", training={"seed": 1})], out) == ["seed 0", "seed 1"]
    four = [
        made(f"{objective}{seed}", objective=objective, training={"seed": seed})
        for objective in ("gce", "mae")
        for seed in (0, 1)
    ]
    assert names_of(four, out) == ["gce, seed 0", "gce, seed 1", "mae, seed 0", "mae, seed 1"]
    noisy = [made("n", noise=None), made("m", noise="symmetric:0.2")]
    assert names_of(noisy, out) == ["no noise", "symmetric:0.2"]
    rates = [made("s", training={"learning_rate": 0.1}), made("t", training={"learning_rate": 0.01})]
    assert names_of(rates, out) == ["learning rate 0.1", "learning rate 0.01"]
    assert names_of([made("x"), made("y")], out) == ["x", "y"]
    assert names_of([made("u/z"), made("v/z")], out) == [str(tmp_path / "u/z"), str(tmp_path / "v/z")]
    assert names_of(noisy, out, names=["<one>", "two"]) == ["<one>", "two"]


def test_twelve_runs_of_many_classes(tmp_path):
    names = [f"class {c}" for c in range(100)]
    folders = [
        write_run(
            tmp_path / str(seed), names=names, settings={"training": {"seed": seed}}, history=[],
            evaluation=made_up_evaluation(num_classes=100, tests=1000, unknown=0),
        )
        for seed in range(12)
    ]  # fmt: skip
    page = read(folders, tmp_path / "c.html")
    assert len(page.table("class")) == 101
    assert any("Shown are the 30 of 100 classes that differ most" in text for text in page.figures)
    assert (tmp_path / "c.html").stat().st_size < 2_000_000
