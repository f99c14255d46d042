import html.parser
import re

import pytest

from catchment.files import write_json, write_jsonl
from catchment.report import NAME, format_number, render, write_run_report

NAMES = ["<b>cat</b>", "dog & son", '"bird"']
NOISE = {
    "kind": "symmetric",
    "rate_asked": 0.4,
    "rate_realised": 0.39871,
    "num_classes": 3,
    "transition_counts": [[60, 21, 19], [22, 61, 17], [18, 20, 62]],
}
HISTORY = [
    {"epoch": 1, "train_loss": 1.234567, "learning_rate": 0.05, "seconds": 0.25},
    {"epoch": 2, "train_loss": float("nan"), "learning_rate": 0.0001, "seconds": 12.0},
]


def write_run(folder, *, noise=NOISE, names=NAMES, history=HISTORY, **metrics):
    config = {
        "training": {"epochs": 2, "optimizer": "sgd", "l1": 1e-4, "augmentation": None, "nesterov": False},
        "input_format": {"kind": "table", "shape": [2], "feature_names": None, "class_names": names},
    }
    numbers = {
        "test_accuracy": 0.912345678, "test_samples": 360, "validation_labels": None,
        "noise": noise, "data": "my <i>data</i>.csv", "objective": "drainage",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    write_json(folder / "metrics.json", numbers | metrics)
    write_jsonl(folder / "history.jsonl", history)


class Page(html.parser.HTMLParser):
    """The tables of a page as rows of text, its headings, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.headings, self.references, self.tags = [], [], [], set()
        self._into = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._into = self.tables[-1][-1]
            self._into.append("")
        elif tag in ("h1", "h2", "title"):
            self._into = self.headings
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2", "title"):
            self._into = None

    def handle_data(self, text):
        if self._into is not None:
            self._into[-1] += text


def read(folder):
    path = write_run_report(folder)
    assert path == folder / NAME
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_shows_the_numbers_the_noise_the_settings_and_the_history(tmp_path):
    write_run(tmp_path)
    page = read(tmp_path)
    numbers, noise, training, history = page.tables
    assert numbers == [
        ["test_accuracy", "0.9123"],
        ["test_samples", "360"],
        ["data", "my <i>data</i>.csv"],
        ["objective", "drainage"],
    ]
    assert noise == [
        ["true \\ given", *NAMES],
        [NAMES[0], "60", "21", "19"],
        [NAMES[1], "22", "61", "17"],
        [NAMES[2], "18", "20", "62"],
    ]
    assert training == [
        ["epochs", "2"], ["optimizer", "sgd"], ["l1", "0.0001"], ["augmentation", "-"], ["nesterov", "False"],
    ]  # fmt: skip
    assert history == [
        ["epoch", "train_loss", "learning_rate", "seconds"],
        ["1", "1.235", "0.05", "0.25"],
        ["2", "-", "0.0001", "12"],
    ]
    assert page.headings == [
        "drainage on my <i>data</i>.csv",
        "drainage on my <i>data</i>.csv",
        "Numbers",
        "Label noise: symmetric, asked 0.4, realised 0.3987 of all labels",
        "Training settings",
        "History",
    ]


def test_the_page_needs_nothing_but_itself(tmp_path):
    write_run(tmp_path)
    page = read(tmp_path)
    text = (tmp_path / NAME).read_text()
    assert page.references == []
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert not page.tags & {"script", "link", "iframe", "img"}
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")


def test_names_are_escaped(tmp_path):
    write_run(tmp_path)
    page = read(tmp_path)
    assert not page.tags & {"b", "i"}
    text = (tmp_path / NAME).read_text()
    assert "&lt;b&gt;cat&lt;/b&gt;" in text
    assert "dog &amp; son" in text
    assert "<b>" not in text


def test_a_run_without_noise_has_no_noise_table(tmp_path):
    write_run(tmp_path, noise=None)
    page = read(tmp_path)
    assert len(page.tables) == 3
    assert not any("noise" in heading for heading in page.headings)


def test_after_relabelling_the_classes_before_have_numbers(tmp_path):
    # the counts cover the three classes before, the run knows the names of the two that are left
    write_run(tmp_path, names=NAMES[:2], noise=NOISE | {"kind": "relabel"})
    rows = read(tmp_path).tables[1]
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
    (tmp_path / NAME).write_text("x" * 100_000)
    write_run(tmp_path, test_accuracy=0.5)
    assert read(tmp_path).tables[0][0] == ["test_accuracy", "0.5"]
    first = (tmp_path / NAME).read_bytes()
    write_run_report(tmp_path)
    assert (tmp_path / NAME).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "history.jsonl", "metrics.json", NAME]


@pytest.mark.parametrize("missing", ["config.json", "metrics.json"])
def test_a_folder_that_lacks_a_file_names_it(tmp_path, missing):
    write_run(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        write_run_report(tmp_path)
    assert caught.value.filename.endswith(missing)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99995, "1"), (1234.56, "1235"), (1e-7, "1e-07"), (0.0, "0"), (-0.5, "-0.5"), (7, "7"), (True, "True"),
     (None, "-"), ("sgd", "sgd"), (123456, "123456")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert format_number(value) == text


def test_every_template_escapes_what_it_is_given():
    section = {"title": "<b>", "rows": [{"<b>": "<b>"}], "note": "<b>", "picture": '"><b>'}
    text = render("demo.html", title="<b>", sections=[section])
    assert "<b>" not in text
    assert Page(text).references == ['"><b>']
