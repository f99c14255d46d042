"""The page of a suite, from a folder of results written by hand."""

import html.parser
import re

import pytest
from suite_rows import TEXT, failed, find_runs, finished, make_suite

from catchment.experiments.bench_report import CSV, MARKDOWN, plots, write_bench_report
from catchment.experiments.results_table import cells, collect, header, to_csv, to_markdown
from catchment.experiments.suite import Selection, plan
from catchment.files import write_json, write_jsonl

NASTY = "<b>bold</b> & 'co'"
RATES = (
    'noise = "symmetric:0.4"\n',
    'noise = "symmetric:0.4"\n[[disturbances]]\nname = "symmetric 0.2"\nnoise = "symmetric:0.2"\n',
)


class Page(html.parser.HTMLParser):
    """The tags, texts, links and tables of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts, self.rows, self.references, self.anchors = [], {}, [], [], [], []
        self._link = self._cell = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            self.references += [attributes[name]] if name in attributes else []
        self.anchors += [attributes["id"]] if "id" in attributes else []
        if tag == "a" and not attributes["href"].startswith("#"):
            self._link = attributes["href"]
            self.links[self._link] = ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "a":
            self._link = None
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._link is not None:
            self.links[self._link] += data
        if self._cell:
            self.rows[-1][-1] += data


def write(folder, rows, *changes):
    """The page of these rows, its table and its text."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    write_json(folder / "suite.json", {"name": "tiny", "where": "tiny.toml", "text": text})
    write_jsonl(folder / "results.jsonl", rows)
    table = write_bench_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Page(text), table, text


def links_to_runs(page):
    return {link: text for link, text in page.links.items() if not link.startswith("#")}


def with_page(folder, *rows):
    for row in rows:
        (folder / "runs" / row["key"]).mkdir(parents=True)
        (folder / "runs" / row["key"] / "report.html").write_text("a run")


def every_run(suite, **selection):
    return [finished(run, 0.5 + 0.1 * i / 100, auroc=0.75) for i, run in enumerate(plan(suite, Selection(**selection)))]


def test_the_page_holds_every_text_of_the_table(tmp_path):
    page, table, _ = write(tmp_path, every_run(make_suite()))
    assert len(table.parts) == 2
    expected = []
    for part in table.parts:
        expected += [header(table, part), *(cells(table, part, row) for row in part.rows)]
        expected += [[name, value] for name, value in part.protocol]
    assert page.rows == expected
    text = " ".join(" ".join(page.texts).split())
    for part in table.parts:
        assert part.about in text
    for note in table.notes:
        assert note in text
    assert "Published: Table 9 of a paper." in text
    assert table.suite.about in text


def test_markdown_and_csv_lie_beside_it(tmp_path):
    _, table, _ = write(tmp_path, every_run(make_suite()))
    assert (tmp_path / MARKDOWN).read_text(encoding="utf-8") == to_markdown(table)
    assert (tmp_path / CSV).read_text(encoding="utf-8") == to_csv(table)
    assert (tmp_path / CSV).read_text().count("\n") == 1 + 2 * 2 * 2 * 2


def test_the_same_results_give_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, every_run(make_suite()))
    for name in (MARKDOWN, CSV, "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_links_lead_to_the_pages_of_runs_that_are_there(tmp_path):
    runs = find_runs(make_suite(), disturbance="none", seeds=(0,))
    there, gone = (finished(run, 0.5) for run in runs)
    (also,) = find_runs(make_suite(), disturbance="symmetric 0.4", method="drainage", seeds=(0,))
    broken = failed(also)
    with_page(tmp_path, there, broken)
    page, _, _ = write(tmp_path, [there, gone, broken])
    assert links_to_runs(page) == {f"runs/{there['key']}/report.html": "matched, none, cross-entropy, seed 0"}
    assert (tmp_path / f"runs/{there['key']}/report.html").exists()


def test_a_page_without_pages_of_runs_has_no_links(tmp_path):
    page, _, _ = write(tmp_path, every_run(make_suite()))
    assert links_to_runs(page) == {}
    assert "runs" not in page.anchors
    assert all(link[1:] in page.anchors for link in page.links)


def test_the_page_needs_no_other_file(tmp_path):
    rows = every_run(make_suite(RATES))
    page, table, text = write(tmp_path, rows, RATES)
    assert [plot for part in table.parts for plot in plots(table, part)]
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http" not in without_names
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_names_and_errors_are_texts_not_tags(tmp_path):
    change = (
        ('objective = "drainage"', f'objective = "drainage"\nname = "{NASTY}"'),
        ("methods.drainage", f'methods."{NASTY}"'),
        ('method = "drainage"', f'method = "{NASTY}"'),
        ('title = "A tiny suite"', 'title = "<i>tiny</i>"'),
    )
    suite = make_suite(*change)
    runs = find_runs(suite, setting="published", method=NASTY, seeds=(0,))
    done, broken = finished(runs[0], 0.5), failed(runs[1], "KeyError: '<script>alert(1)</script>'")
    with_page(tmp_path, done)
    page, _, text = write(tmp_path, [done, broken], *change)
    assert not {"b", "i", "script"} & set(page.tags)
    assert any(row[1] == NASTY for row in page.rows)
    assert list(links_to_runs(page).values()) == [f"published, none, {NASTY}, seed 0"]
    assert "alert(1)" in "".join(page.texts)
    assert "<i>tiny" not in text


# Plots


def plotted(suite, **selection):
    table = collect(suite, every_run(suite, **selection))
    return [[plot.title for plot in plots(table, part)] for part in table.parts], table


def test_a_kind_of_noise_at_two_rates_has_a_plot_per_metric():
    """No noise is rate 0 of every kind."""
    titles, _ = plotted(make_suite(), settings=("matched",))
    assert titles == [["accuracy over the rate of symmetric noise", "AUROC over the rate of symmetric noise"]]


def test_one_rate_has_no_plot():
    titles, _ = plotted(make_suite(), settings=("matched",), only=("symmetric 0.4",))
    assert titles == [[]]


def test_a_grid_has_no_plot():
    titles, _ = plotted(make_suite(), settings=("matched",), tuning="noisy")
    assert titles == [[]]


@pytest.mark.parametrize("kind", ["relabel", "remove", "remove-random"])
def test_noise_without_a_rate_has_no_plot(kind):
    """The 4 of remove-random:4 is no rate, nor is class 4 of relabel:4."""
    suite = make_suite(('noise = "symmetric:0.4"', f'noise = "{kind}:4"'))
    titles, _ = plotted(suite, settings=("matched",))
    assert titles == [[]]


def test_kinds_of_noise_are_not_joined():
    other = ('noise = "symmetric:0.4"\n', RATES[1].replace('"symmetric:0.2"', '"pair-flip:0.2"'))
    titles, _ = plotted(make_suite(other), settings=("matched",), only=("symmetric 0.4", "symmetric 0.2"))
    assert titles == [[]]  # one rate of each


def test_mappings_are_not_joined():
    asymmetric = (
        'noise = "symmetric:0.4"\n',
        'noise = "asymmetric:0.4"\nmapping = "mnist"\n[[disturbances]]\nname = "other"\nnoise = "asymmetric:0.4"\n'
        'mapping = "1:2,2:1"\n',
    )
    titles, _ = plotted(make_suite(asymmetric), settings=("matched",))
    assert [title for title in titles[0] if title.startswith("accuracy")] == [
        "accuracy over the rate of asymmetric (mnist) noise",
        "accuracy over the rate of asymmetric (1:2,2:1) noise",
    ]


def test_a_plot_has_means_deviations_and_published_points_in_order_of_the_rate(monkeypatch):
    suite = make_suite(RATES)
    accuracies = {"none": (0.9, 1.0), "symmetric 0.4": (0.7, 0.7), "symmetric 0.2": (0.8, 0.82)}
    rows = [
        finished(run, accuracies[run.disturbance][run.seed])
        for run in find_runs(suite, setting="published", method="drainage", seeds=(0, 1))
    ]
    table = collect(suite, rows)
    drawn = []
    monkeypatch.setattr(
        "catchment.experiments.bench_report.figures.lines_with_errors",
        lambda series, **labels: drawn.append((series, labels)) or "<svg></svg>",
    )
    (plot,) = plots(table, table.parts[0])
    ((series, labels),) = drawn
    x, mean, sd = series["drainage"]
    assert x == [0.0, 0.2, 0.4]
    assert mean == pytest.approx([95, 81, 70])
    assert sd == pytest.approx([50**0.5, 2**0.5, 0])
    assert labels["references"] == [("drainage", 0.4, 80.0)]
    assert labels["y_label"] == "accuracy, %"
    assert plot.title == "accuracy over the rate of symmetric noise"


def test_a_method_that_failed_at_a_rate_has_a_line_through_the_others():
    suite = make_suite(RATES)
    runs = find_runs(suite, method="drainage", seeds=(0,))
    table = collect(suite, [finished(runs[0], 0.9), failed(runs[1]), finished(runs[2], 0.8)])
    assert len(plots(table, table.parts[0])) == 1


# Folders that hold nothing to show


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no results of a suite: give the --out folder of catchment bench"):
        write_bench_report(tmp_path)


def test_a_folder_whose_runs_have_not_ended_is_refused(tmp_path):
    write_json(tmp_path / "suite.json", {"name": "tiny", "where": "tiny.toml", "text": TEXT})
    with pytest.raises(ValueError, match=f"no run of tiny has ended in .*: catchment bench tiny --out {tmp_path}"):
        write_bench_report(tmp_path)


def test_a_page_of_failures_alone_says_why(tmp_path):
    runs = find_runs(make_suite(), disturbance="none", seeds=(0,))
    page, _, _ = write(tmp_path, [failed(run, "no memory") for run in runs])
    text = " ".join(page.texts)
    assert text.count("no memory") == 2
    assert ["none", "drainage", "-", "-", "0 (1 failed)", "-", "0"] in page.rows
