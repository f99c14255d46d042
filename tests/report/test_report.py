import itertools
import re

import numpy as np
import pytest
from report.pages import Page
from report.run_folders import HISTORY, NAMES, NOISE, made_up_evaluation, write_run

from catchment.report import NAME, format_number, format_percent, render, write_run_report


def read(folder):
    path = write_run_report(folder)
    assert path == folder / NAME
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids))
    # headings go down one level at a time
    assert page.levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(page.levels))
    assert page.unlabelled_boxes == 0
    # every anchor of the contents is there
    assert {link[1:] for link in page.references if link.startswith("#")} <= set(page.ids)
    return page


def test_the_page_shows_the_numbers_the_noise_the_settings_and_the_history(tmp_path):
    write_run(tmp_path)
    page = read(tmp_path)
    changes, noise, numbers, training, environment, history = page.tables
    assert changes[:3] == [["true", "given", "samples"], [NAMES[1], NAMES[0], "22"], [NAMES[0], NAMES[1], "21"]]
    assert noise == [
        ["true \\ given", *NAMES],
        [NAMES[0], "60", "21", "19"],
        [NAMES[1], "22", "61", "17"],
        [NAMES[2], "18", "20", "62"],
    ]
    assert numbers == [
        ["test_accuracy", "0.9123"],
        ["test_samples", "360"],
        ["data", "my <i>data</i>.csv"],
        ["objective", "drainage"],
    ]
    assert training == [
        ["epochs", "2"], ["optimizer", "sgd"], ["l1", "0.0001"], ["augmentation", "-"], ["nesterov", "False"],
        ["seed", "0"],
    ]  # fmt: skip
    assert environment == [["torch", "2.9"], ["cpu", "a <u>fast</u> one"]]
    assert history == [
        ["epoch", "train_loss", "learning_rate", "seconds", "test_accuracy"],
        ["1", "1.235", "0.05", "0.25", "-"],
        ["2", "-", "0.0001", "12", "0.75"],
    ]
    assert page.headings == [
        "drainage on my <i>data</i>.csv",
        "Label noise: symmetric, asked 0.4, realised 0.3987 of all labels",
        "The most frequent changes",
        "Learning curves",
        "Numbers",
        "Settings",
        "Training",
        "Versions and hardware",
        "History",
    ]


def test_the_summary_says_what_ran_in_words(tmp_path):
    write_run(
        tmp_path, seed=3, epochs=12, reported="best validation epoch", reported_epoch=7, validation_labels="noisy",
        train_samples=1437,
    )  # fmt: skip
    text = read(tmp_path).text
    assert (
        "drainage (alpha 0.1) on my <i>data</i>.csv with the net mlp, seed 3: 1437 training and 360 test samples of "
        "3 classes. Label noise put on the training labels: symmetric, asked 0.4, realised 0.3987 of all labels. "
        "Trained for 12 epochs; the numbers are those of the best validation epoch (7). "
        "Validation labels: noisy, as a user would have them."
    ) in text
    assert "91.2 %" in text


def test_a_run_judged_on_its_validation_part_says_so(tmp_path):
    write_run(tmp_path, test_accuracy=None, judged_on="validation", validation_accuracy=0.5)
    text = read(tmp_path).text
    assert "validation accuracy50.0 %" in text
    assert "the test set was left alone" in text


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder whose page has every part."""
    folder = write_run(tmp_path_factory.mktemp("full"), evaluation=made_up_evaluation(image=(8, 8, 3)))
    return folder, read(folder)


def test_the_page_needs_nothing_but_itself(full):
    folder, page = full
    text = (folder / NAME).read_text()
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"https?:|//|url\((?!#)|@import|xmlns", without_pictures)
    assert not page.tags & {"script", "link", "iframe", "metadata"}
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")


def test_names_are_escaped(full):
    folder, page = full
    assert not page.tags & {"b", "i", "u"}
    text = (folder / NAME).read_text()
    assert "&lt;b&gt;cat&lt;/b&gt;" in text
    assert "dog &amp; son" in text
    assert "<b>" not in text
    assert any(f"label {NAMES[2]}" in image["alt"] for image in page.images)


def test_the_same_folder_gives_the_same_bytes(full):
    folder, _ = full
    first = (folder / NAME).read_bytes()
    write_run_report(folder)
    assert (folder / NAME).read_bytes() == first


def test_a_run_without_noise_has_no_noise_table(tmp_path):
    write_run(tmp_path, noise=None)
    page = read(tmp_path)
    assert len(page.tables) == 4
    assert not any("noise" in heading for heading in page.headings)
    assert "No label noise was added." in page.text


def test_after_relabelling_the_classes_before_have_numbers(tmp_path):
    # the counts cover the three classes before, the run knows the names of the two that are left
    write_run(tmp_path, names=NAMES[:2], noise=NOISE | {"kind": "relabel"})
    rows = read(tmp_path).table("true \\ given")
    assert [row[0] for row in rows] == ["true \\ given", "0", "1", "2"]
    assert rows[0][1:] == ["0", "1", "2"]
    assert rows[3][1:] == ["18", "20", "62"]


def test_asymmetric_noise_says_what_share_of_the_mapped_classes_it_changed(tmp_path):
    write_run(tmp_path, noise=NOISE | {"kind": "asymmetric", "rate_realised": 0.2, "rate_realised_of_mapped": 0.401})
    heading = "Label noise: asymmetric, asked 0.4, realised 0.2 of all labels, 0.401 of the mapped classes"
    assert heading in read(tmp_path).headings


def test_numbers_that_are_not_known_show_as_a_dash(tmp_path):
    write_run(tmp_path, noise=NOISE | {"rate_asked": None})
    assert "Label noise: symmetric, asked -, realised 0.3987 of all labels" in read(tmp_path).headings


def test_a_run_without_history_and_a_torn_last_line(tmp_path):
    write_run(tmp_path, history=[])
    assert read(tmp_path).tables[-1] == []
    write_run(tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train')
    assert len(read(tmp_path).tables[-1]) == 3


def test_a_page_is_replaced_whole(tmp_path):
    (tmp_path / NAME).write_text("x" * 1_000_000)
    write_run(tmp_path, test_accuracy=0.5)
    assert read(tmp_path).table("test_accuracy")[0] == ["test_accuracy", "0.5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "history.jsonl", "metrics.json", NAME]


def test_a_folder_without_a_finished_run_is_an_error_that_says_what_to_do(tmp_path):
    write_run(tmp_path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"holds no finished run: catchment train --resume --out ") as caught:
        write_run_report(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds no finished run: catchment train --resume --out {tmp_path}"
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no finished run: give the --out folder of catchment train"):
        write_run_report(tmp_path)
    assert not (tmp_path / NAME).exists()


def test_an_evaluation_that_cannot_be_used_is_named(tmp_path):
    write_run(tmp_path)
    (tmp_path / "evaluation.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"evaluation\.npz can't be read .*: remove the file"):
        write_run_report(tmp_path)
    arrays = made_up_evaluation()
    del arrays["test_label"]
    write_run(tmp_path, evaluation=arrays)
    with pytest.raises(ValueError, match=r"evaluation\.npz lacks test_label: remove the file"):
        write_run_report(tmp_path)
    write_run(tmp_path, evaluation=made_up_evaluation() | {"test_label": np.array([object()])})
    with pytest.raises(ValueError, match=r"evaluation\.npz can't be read"):
        write_run_report(tmp_path)


def test_a_run_of_an_earlier_version_says_why_figures_are_missing(tmp_path):
    write_run(tmp_path)
    page = read(tmp_path)
    assert "There is no evaluation.npz in this run's folder" in page.text
    assert not {"Confusions", "Confidence", "Unknown score"} & set(page.headings)


def test_confusions_reliability_and_risk_are_those_of_the_arrays(tmp_path):
    arrays = made_up_evaluation(shown=3, tests=6, unknown=1) | {
        "test_label": np.array([-1, 0, 0, 1, 2, 2]),
        "test_predicted": np.array([0, 0, 1, 1, 2, 0]),
        "test_confidence": np.array([0.9, 0.95, 0.5, 0.96, 0.9, 0.4], dtype=np.float32),
        "test_unknown_score": np.array([0.9, 0.1, 0.3, 0.2, 0.4, 0.5], dtype=np.float32),
    }
    write_run(tmp_path, evaluation=arrays)
    page = read(tmp_path)
    assert page.table("label \\ predicted") == [
        ["label \\ predicted", *NAMES],
        [NAMES[0], "1", "1", "0"],
        [NAMES[1], "0", "1", "0"],
        [NAMES[2], "1", "0", "1"],
    ]
    assert page.table("label") == [
        ["label", "predicted", "samples"], [NAMES[0], NAMES[1], "1"], [NAMES[2], NAMES[0], "1"],
    ]  # fmt: skip
    assert page.table("confidence") == [
        ["confidence", "samples", "mean confidence", "accuracy"],
        ["0.400 to 0.467", "1", "0.4", "0"],
        ["0.467 to 0.533", "1", "0.5", "0"],
        ["0.867 to 0.933", "1", "0.9", "1"],
        ["0.933 to 1.000", "2", "0.955", "1"],
    ]
    # ECE by hand: (0.4 + 0.5 + 0.1 + 2 * 0.045) / 5
    assert "expected calibration error 0.2180" in page.text
    # risks by rising score: 0/1, 0/2, 1/3, 1/4, 2/5; their mean is 0.19667
    assert "area under the curve (AURC) 0.1967" in page.text
    assert "2 of 5 test samples of a known class were predicted wrong." in page.figures


def test_the_history_gives_curves_that_say_what_chose_nothing(tmp_path):
    history = [
        {"epoch": e, "train_loss": 2.0 / e, "validation_accuracy": 0.1 * e} | ({"test_accuracy": 0.3} if e == 4 else {})
        for e in range(1, 5)
    ]
    write_run(tmp_path, history=history, reported_epoch=3)
    page = read(tmp_path)
    assert "Training loss per epoch: from 2 to 0.5." in page.figures
    accuracy = next(text for text in page.figures if text.startswith("Validation accuracy"))
    assert accuracy.startswith("Validation accuracy from 0.1 to 0.4; test accuracy 0.3. The test accuracy over epochs")
    assert "Vertical line: epoch 3" in page.text


def test_the_gallery_is_in_order_and_the_wrong_suspects_are_marked_in_words(tmp_path):
    arrays = made_up_evaluation(image=(8, 8, 1), shown=4)
    write_run(tmp_path, evaluation=arrays)
    page = read(tmp_path)
    gallery, suspects = page.images[:4], page.images[4:]
    scores = [float(image["alt"].rpartition(" ")[2]) for image in gallery]
    assert scores == sorted(scores)
    assert gallery[0]["alt"].startswith(f"test sample test/{arrays['gallery_index'][0]}: label ")
    assert all(image["class"] == "pixels" and (image["width"], image["height"]) == ("8", "8") for image in gallery)
    assert len(suspects) == 4
    wrong = (arrays["train_label"] != arrays["train_clean_label"])[arrays["suspect_index"]]
    assert 0 < wrong.sum() < 4
    assert page.text.count("✗ really ") == wrong.sum()
    assert page.text.count("✓ label is right") == 4 - wrong.sum()
    text = (tmp_path / NAME).read_text()
    assert text.count('<li class="wrong">') == wrong.sum()


def test_suspects_of_a_table_are_rows_with_ids(tmp_path):
    arrays = made_up_evaluation(shown=3)
    write_run(tmp_path, evaluation=arrays)
    page = read(tmp_path)
    rows = page.table("id")
    assert [row[0] for row in rows[1:]] == [f"train/{i}" for i in arrays["suspect_index"]]
    first = arrays["suspect_index"][0]
    clean, given = arrays["train_clean_label"][first], arrays["train_label"][first]
    assert rows[1][1] == NAMES[given]
    assert rows[1][3] == (NAMES[clean] if clean == given else f"✗ {NAMES[clean]}")
    assert page.images == []


def test_colour_galleries_of_96_pixels_stay_under_five_megabytes(tmp_path):
    write_run(tmp_path, noise=None, history=[], evaluation=made_up_evaluation(image=(96, 96, 3), shown=100))
    page = read(tmp_path)
    assert len(page.images) == 96
    assert (tmp_path / NAME).stat().st_size < 5_000_000
    assert not any("class" in image for image in page.images)


def test_a_thousand_classes_have_a_picture_and_a_list_of_the_most_frequent_confusions(tmp_path):
    arrays = made_up_evaluation(num_classes=1000, tests=3000, unknown=0)
    arrays["test_label"][:50], arrays["test_predicted"][:50] = 7, 9
    counts = np.eye(1000, dtype=int)
    write_run(
        tmp_path, names=[f"class {c}" for c in range(1000)], evaluation=arrays, history=[],
        noise=NOISE | {"transition_counts": counts.tolist()},
    )  # fmt: skip
    page = read(tmp_path)
    rows = page.table("label")
    assert len(rows) == 21
    assert rows[1] == ["class 7", "class 9", "50"]
    assert not any(table and table[0][0] in ("label \\ predicted", "true \\ given") for table in page.tables)
    assert (tmp_path / NAME).stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"test_label": np.full(6, -100)}, id="no test label"),
        pytest.param({"test_label": np.full(6, -1)}, id="nothing but unknown"),
        pytest.param({"test_label": np.zeros(6, int), "test_predicted": np.zeros(6, int)}, id="all correct"),
        pytest.param({"train_label": np.full(8, -100), "train_label_score": np.full(8, np.nan)}, id="no label"),
        pytest.param({"test_unknown_score": np.full(6, np.nan)}, id="scores that are no numbers"),
        pytest.param({"test_confidence": np.full(6, np.nan)}, id="confidences that are no numbers"),
        pytest.param({"train_unknown_score": np.full(8, 7.0)}, id="one score"),
        pytest.param({"gallery_index": np.zeros(0, int), "gallery_id": np.zeros(0, str)}, id="no gallery"),
        pytest.param({"suspect_index": np.zeros(0, int), "suspect_id": np.zeros(0, str)}, id="no suspects"),
    ],
)
def test_parts_may_be_empty(tmp_path, changes):
    arrays = made_up_evaluation(tests=6, trained=8, unknown=0, clean=False, shown=2) | changes
    write_run(tmp_path, noise=None, history=HISTORY[:1], evaluation=arrays)
    page = read(tmp_path)
    judged = (arrays["test_label"] >= 0).any()
    assert ("Confusions" in page.headings) == judged
    assert ("Suspect labels" in page.headings) == (len(arrays["suspect_index"]) > 0)
    assert "nan" not in " ".join(page.figures)


def test_two_rows_are_enough(tmp_path):
    arrays = made_up_evaluation(num_classes=2, tests=2, trained=2, unknown=0, shown=2, image=(1, 1, 3))
    write_run(tmp_path, names=["a", "b"], noise=None, evaluation=arrays)
    page = read(tmp_path)
    assert len(page.images) == 4
    assert sum(int(cell) for row in page.table("label \\ predicted")[1:] for cell in row[1:]) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99995, "1"), (1234.56, "1235"), (1e-7, "1e-07"), (0.0, "0"), (-0.5, "-0.5"), (7, "7"), (True, "True"),
     (None, "-"), ("sgd", "sgd"), (123456, "123456")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(("share", "text"), [(0.0, "0.0 %"), (0.12345, "12.3 %"), (1.0, "100.0 %"), (None, "-")])
def test_shares_are_percentages(share, text):
    assert format_percent(share) == text


def test_every_template_escapes_what_it_is_given():
    section = {"title": "<b>", "rows": [{"<b>": "<b>"}], "note": "<b>", "picture": '"><b>'}
    text = render("demo.html", title="<b>", sections=[section])
    assert "<b>" not in text
    assert Page(text).references == ["#content", '"><b>']
