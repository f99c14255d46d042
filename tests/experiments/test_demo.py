import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from catchment.experiments import demo
from catchment.files import read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo of two epochs, run over the output of an earlier one."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    out.mkdir()
    (out / demo.NUMBERS).write_text("{}")
    (out / "no-class-drainage").mkdir()
    (out / "no-class-drainage" / "of-an-earlier-demo").write_text("old")
    short = pytest.MonkeyPatch()
    short.setattr("os.cpu_count", lambda: 1)  # one run after the other, in this process
    for name in ("UNKNOWN_TRAINING", "NOISY_TRAINING"):
        short.setattr(demo, name, replace(getattr(demo, name), epochs=2))
    text = io.StringIO()
    numbers = demo.run_demo(out, Console(file=text, width=200))
    short.undo()
    return out, numbers, text.getvalue()


def test_the_tables_say_what_the_runs_measured(finished):
    out, numbers, _ = finished
    drainage = read_json(out / "no-class-drainage" / "metrics.json")
    row = next(row for row in numbers["no_class"] if row["method"] == "drainage")
    assert row["7, 8, 9 drained"] == f"{100 * drainage['test_extra_output_unknown']:.1f} %"
    assert row["0..6 drained"] == f"{100 * drainage['test_extra_output_known']:.1f} %"
    assert row["accuracy on 0..6"] == f"{100 * drainage['test_accuracy']:.1f} %"
    assert row["AUROC of unknown_score"] == f"{drainage['test_unknown_auroc']:.3f}"
    assert numbers["no_class"][0]["7, 8, 9 drained"] == "-"  # cross-entropy has no such output

    runs = [read_json(out / f"wrong-labels-cross-entropy-{seed}" / "metrics.json") for seed in demo.SEEDS]
    accuracy = [100 * run["test_accuracy"] for run in runs]
    mean = sum(accuracy) / 3
    sd = (sum((a - mean) ** 2 for a in accuracy) / 2) ** 0.5
    assert numbers["wrong_labels"][0]["test accuracy"] == f"{mean:.1f} ± {sd:.1f} %"


def test_the_methods_are_compared_with_the_same_settings(finished):
    out, _, _ = finished
    for seed in demo.SEEDS:
        first, second = (
            read_json(out / f"wrong-labels-{method}-{seed}" / "config.json") for method in ("cross-entropy", "drainage")
        )
        assert first["training"] == second["training"]
        assert first["training"]["seed"] == seed
        assert first["fingerprint"] == second["fingerprint"]  # the same data with the same wrong labels
        assert first["noise_record"]["rate_realised_of_mapped"] == pytest.approx(0.4, abs=0.01)


def test_the_page_holds_both_stories_and_needs_no_other_file(finished):
    out, numbers, _ = finished
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for row in (*numbers["no_class"], *numbers["wrong_labels"]):
        assert all(value in page for value in row.values())


def test_it_ends_with_the_report_and_the_next_command(finished):
    out, numbers, text = finished
    assert text.splitlines()[-2].endswith(f"Pictures and tables: {out / 'report.html'}")
    assert text.splitlines()[-1].startswith("Next: catchment train ")
    assert "1 at a time, each on one CPU thread" in text
    assert read_json(out / demo.NUMBERS) == json.loads(json.dumps(numbers))


def test_it_replaces_its_own_output_and_nothing_else(finished, tmp_path):
    out, _, _ = finished
    assert not (out / "no-class-drainage" / "of-an-earlier-demo").exists()
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / demo.NUMBERS).write_text("{}")  # beside an earlier demo
    with pytest.raises(ValueError, match="is not empty: choose another --out"):
        demo.run_demo(tmp_path, Console(file=io.StringIO()))
    assert (tmp_path / "thesis.txt").read_text() == "mine"
