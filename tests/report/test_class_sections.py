"""Classes by their size, transported labels, and the map of features on a run's page."""

import numpy as np
import pytest
from report.pages import Page
from report.run_folders import NAMES, made_up_evaluation, made_up_map, made_up_transport, write_run

from catchment import metrics
from catchment.report import NAME, write_comparison, write_run_report
from catchment.report.class_sections import by_frequency, feature_map, transport
from catchment.report.run_folder import read_run

IMBALANCE = {"kind": "long-tail", "class_counts": [60, 30, 10]}
SECTIONS = {"Transported labels", "Accuracy by class frequency", "Features in the plane"}


def read(folder):
    write_run_report(folder)
    return Page((folder / NAME).read_text(encoding="utf-8"))


def test_only_runs_that_have_them_have_the_sections(tmp_path):
    write_run(tmp_path, evaluation=made_up_evaluation())
    assert not SECTIONS & set(read(tmp_path).headings)
    write_run(
        tmp_path, evaluation=made_up_evaluation(), imbalance=IMBALANCE, transport=made_up_transport(),
        feature_map=made_up_map(),
    )  # fmt: skip
    page = read(tmp_path)
    assert set(page.headings) >= SECTIONS
    assert {"#transport", "#frequency", "#features"} <= set(page.references)
    assert len(page.ids) == len(set(page.ids))
    assert page.unlabelled_boxes == 0
    # records are said in words, and are no numbers
    assert not {"transport", "imbalance", "noise"} & {row[0] for table in page.tables for row in table if row}
    assert (
        "Training classes were made rare (long-tail): the largest has 60 samples by true label, the smallest 10."
    ) in page.text


def test_accuracy_by_frequency_is_that_of_the_metrics(tmp_path):
    """Three classes: many, medium and few are one each."""
    arrays = made_up_evaluation(tests=10, trained=8, unknown=1) | {
        "test_label": np.array([-1, 0, 0, 0, 0, 1, 1, 2, 2, 2]),
        "test_predicted": np.array([0, 0, 0, 0, 2, 1, 0, 2, 1, 1]),
        "train_label": np.array([0, 1, 2, 1, 1, 0, 0, 2]),
        "train_clean_label": np.array([1, 1, 1, 1, 1, 0, 0, 2]),  # the given labels would rank otherwise
    }
    run = read_run(write_run(tmp_path, evaluation=arrays, imbalance=IMBALANCE))
    found = by_frequency(run, run.evaluation)
    assert found["rows"] == [
        (NAMES[1], "many", 5, 0.5), (NAMES[0], "medium", 2, 0.75), (NAMES[2], "few", 1, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert found["text"] == (
        "Test accuracy of each class against its training samples (true labels); mean over the classes with many "
        "50.0 %, medium 75.0 %, few 33.3 %."
    )
    page = read(tmp_path)
    assert page.table("class") == [
        ["class", "group", "training samples (true)", "test accuracy"],
        [NAMES[1], "many", "5", "0.500"], [NAMES[0], "medium", "2", "0.750"], [NAMES[2], "few", "1", "0.333"],
    ]  # fmt: skip
    assert found["text"] in page.figures


def test_a_hundred_classes_group_by_count_and_classes_without_tests_are_left_out(tmp_path):
    arrays = made_up_evaluation(num_classes=100, tests=600, trained=100, unknown=0, clean=False)
    counts = np.round(300 * (1 / 60) ** (np.arange(100) / 99)).astype(int)
    arrays["train_label"] = np.repeat(np.arange(100), counts)
    rare = arrays["test_label"] == 99
    arrays["test_label"][rare] = 98
    run = read_run(write_run(tmp_path, evaluation=arrays, imbalance=IMBALANCE, names=[f"c{i}" for i in range(100)]))
    found = by_frequency(run, run.evaluation)
    assert len(found["rows"]) == 99
    assert found["which"] == "given"
    expected = metrics.group_accuracy(arrays["test_predicted"], arrays["test_label"], counts)
    for name in ("many", "medium", "few"):
        of_group = [accuracy for _, group, _, accuracy in found["rows"] if group == name]
        assert np.mean(of_group) == pytest.approx(expected[name])
        assert f"{name} {100 * expected[name]:.1f} %" in found["text"]


def test_totals_asked_reached_given_and_true(tmp_path):
    arrays = made_up_evaluation(trained=300)
    arrays["train_clean_label"] = np.repeat([0, 1, 2], [90, 60, 150])
    run = read_run(write_run(tmp_path, evaluation=arrays, transport=made_up_transport()))
    found = transport(run)
    assert found["columns"] == ["asked", "reached", "given", "true"]
    assert found["rows"][0] == (NAMES[0], [50.0, 50.0, 100.0, 90.0], -1.0)
    assert found["rows"][2] == (NAMES[2], [150.0, 150.0, 100.0, 150.0], 1.0)
    # asked 50, 100, 150; given 100, 100, 100: (50 + 0 + 50) / 300; true 90, 60, 150: (40 + 40 + 0) / 300
    assert found["text"].startswith(
        "The solver converged: asked and reached totals are 0 apart. Asked totals and given labels: 0.333. Asked "
        "totals and true labels: 0.267."
    )
    assert f" 1 for {NAMES[2]}, -1 for {NAMES[0]}: the classes of the largest" in found["about_potential"]
    page = read(tmp_path)
    assert page.table("class") == [
        ["class", "asked", "reached", "given", "true", "potential"],
        [NAMES[0], "50.0", "50.0", "100.0", "90.0", "-1.000"],
        [NAMES[1], "100.0", "100.0", "100.0", "60.0", "0.000"],
        [NAMES[2], "150.0", "150.0", "100.0", "150.0", "1.000"],
    ]


def test_a_solver_that_stopped_and_a_class_without_labels_are_said(tmp_path):
    made_up = made_up_transport() | {"converged": False, "reached": [0.0, 120.0, 180.0], "asked": [0.0, 150.0, 150.0]}
    made_up["potential"][0] = float("-inf")  # which JSON has not
    run = read_run(write_run(tmp_path, transport=made_up))
    found = transport(run)
    assert found["text"].startswith("The solver did not converge: asked and reached totals are 0.2 apart.")
    assert found["columns"] == ["asked", "reached", "given"]
    assert np.isnan(found["rows"][0][2])
    assert f" 0 for {NAMES[1]}, 1 for {NAMES[2]}: the classes of the largest" in found["about_potential"]
    assert read(tmp_path).table("class")[1] == [NAMES[0], "0.0", "0.0", "100.0", "-"]


def test_of_many_classes_those_are_drawn_that_are_furthest_from_the_given_labels(tmp_path):
    names = [f"c{i}" for i in range(100)]
    run = read_run(write_run(tmp_path, transport=made_up_transport(100, 5000), names=names))
    found = transport(run)
    assert "Shown are the 30 of 100 classes" in found["text"]
    assert len(found["rows"]) == 100
    # asked rises evenly through 50, what each class was given: the furthest are the first and the last classes
    for figure in (found["totals"], found["potential"]):
        assert ">c0<" in figure
        assert ">c99<" in figure
        assert ">c50<" not in figure
    assert len(read(tmp_path).table("class")) == 101


def test_the_map_says_of_how_many_and_how_many_lie_beside_their_own(tmp_path):
    run = read_run(write_run(tmp_path, feature_map=made_up_map()))
    found = feature_map(run)
    assert found["text"].startswith(
        "t-SNE of the features of 60 random ones of 200 test samples (perplexity 12.5, seed 3), marked by their label. "
        "In this plane 100.0 % have a sample of their own label nearest."
    )
    assert found["figure"].count("<use") >= 60
    arrays = made_up_map(samples=60)
    arrays["label"][:] = np.arange(60) // 20  # each cluster has all three
    run = read_run(write_run(tmp_path, feature_map=arrays))
    assert "of the features of 60 test samples" in feature_map(run)["text"]
    assert "In this plane 100.0 %" not in feature_map(run)["text"]


def test_the_map_of_too_many_classes_marks_what_was_predicted_right(tmp_path):
    names = [f"c{i}" for i in range(20)]
    arrays = made_up_map(num_classes=20)
    figure = feature_map(read_run(write_run(tmp_path, feature_map=arrays, names=names)))["figure"]
    assert ">predicted right<" in figure
    assert ">predicted wrong<" in figure
    assert ">c1<" not in figure
    arrays["predicted"] = arrays["label"]
    figure = feature_map(read_run(write_run(tmp_path, feature_map=arrays, names=names)))["figure"]
    assert ">predicted wrong<" not in figure


def test_a_map_that_cannot_be_used_is_named(tmp_path):
    arrays = made_up_map()
    del arrays["label"]
    write_run(tmp_path, feature_map=arrays)
    with pytest.raises(ValueError, match=r"tsne\.npz lacks label: remove the file for a page without its figures"):
        write_run_report(tmp_path)


def test_corrected_and_damaged_labels_are_curves(tmp_path):
    history = [{"epoch": e, "train_loss": 1.0, "train_corrected": 0.2 * e, "train_damaged": 0.1 / e} for e in (1, 2, 3)]
    write_run(tmp_path, history=history)
    text = next(text for text in read(tmp_path).figures if text.startswith("Corrected by the model"))
    assert text.startswith("Corrected by the model from 0.2 to 0.6; damaged by the model from 0.1 to 0.03333. ")
    assert "by q" not in text
    for row in history:
        row |= {"transported_corrected": 0.9, "transported_damaged": 0.0}
    write_run(tmp_path, history=history)
    assert any("corrected by q from 0.9 to 0.9; damaged by q from 0 to 0. " in t for t in read(tmp_path).figures)
    other = write_run(tmp_path / "other", history=history, settings={"objective": "gce"})
    text = Page(write_comparison([tmp_path, other], tmp_path / "c.html").read_text()).text
    assert "Wrong training labels corrected per epoch." in text
    assert "Right training labels damaged per epoch." in text
