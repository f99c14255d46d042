"""The table of a suite, from rows of results whose numbers are worked out by hand."""

import csv
import io
import json

import pytest
from rich.console import Console
from suite_rows import HARDWARE, VERSIONS, failed, find_runs, finished, make_suite

from catchment.experiments.results_table import (
    Cell,
    collect,
    for_terminal,
    header,
    number,
    shown,
    signed,
    sources,
    to_csv,
    to_markdown,
    to_records,
)
from catchment.experiments.suite import Metric, Published

ACCURACY = Metric("test_accuracy", "accuracy", percent=True)
AUROC = Metric("label_score_auroc", "AUROC")
# drainage is trained alike in both settings
SHARED = ("{ l1 = 2e-3, momentum = 0.8 }", "{ l1 = 1e-3 }")
FIGURE = Published("drainage", "symmetric 0.4", "test_accuracy", 80.0, "Table 9", sd=0.5)


def three_seeds(*, setting="published", accuracies=(0.75, 0.8, 0.88), **selection):
    runs = find_runs(
        make_suite(), setting=setting, disturbance="symmetric 0.4", method="drainage", seeds=(0, 1, 2), **selection
    )
    return [finished(run, a, auroc=0.5, rate=0.39) for run, a in zip(runs, accuracies, strict=True)]


def only_row(table):
    (row,) = table.rows
    return row


def terminal(table):
    console = Console(file=io.StringIO(), width=2000)
    console.print(for_terminal(table))
    return console.file.getvalue()


def cells_of_markdown(text):
    """The cells of every row of every table, escapes undone."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and " --- " not in line]
    return [[cell.strip().replace("\0", "|") for cell in row.replace("\\|", "\0").split("|")[1:-1]] for row in rows]


# Numbers


def test_mean_sample_standard_deviation_and_difference():
    """75, 80, 88: mean 81, squared distances 36 + 1 + 49 = 86, over 2: 43."""
    row = only_row(collect(make_suite(), three_seeds()))
    cell = row.cells["test_accuracy"]
    assert cell.mean == pytest.approx(81)
    assert cell.sd == pytest.approx(43**0.5)
    assert cell.difference == pytest.approx(1)
    assert (row.seeds, row.failed, row.rate_realised) == ((0, 1, 2), 0, pytest.approx(0.39))
    assert row.device_seconds == 4.5
    assert row.cells["label_score_auroc"].published is None
    assert row.cells["label_score_auroc"].difference is None


def test_ours_below_the_published_figure_is_negative():
    cell = only_row(collect(make_suite(), three_seeds(accuracies=(0.7, 0.7, 0.7)))).cells["test_accuracy"]
    assert cell.difference == pytest.approx(-10)
    assert signed(cell.difference, ACCURACY) == "-10.00"
    assert signed(0.0123, AUROC) == "+0.012"


def test_digits_of_percent_and_of_others():
    assert number(81.236, ACCURACY) == "81.24"
    assert number(0.98765, AUROC) == "0.988"
    assert number(None, AUROC) == signed(None, AUROC) == "-"
    assert shown(Cell((75.0, 80.0, 88.0), None), ACCURACY) == "81.00 ± 6.56"
    assert shown(Cell((75.0,), None), ACCURACY) == "75.00"
    assert shown(Cell((), FIGURE), ACCURACY) == "-"


def test_one_seed_has_no_standard_deviation():
    row = only_row(collect(make_suite(), three_seeds()[:1]))
    assert (row.seeds, row.cells["test_accuracy"].mean, row.cells["test_accuracy"].sd) == ((0,), 75.0, None)


def test_a_metric_that_some_runs_lack_is_over_the_others():
    rows = three_seeds()
    rows[0]["metrics"]["test_accuracy"] = None
    table = collect(make_suite(), rows)
    cell = only_row(table).cells["test_accuracy"]
    assert cell.values == pytest.approx((80.0, 88.0))
    record = next(record for record in to_records(table) if record["metric"] == "test_accuracy")
    assert record["seeds"] == 2


def test_a_metric_without_any_number_has_no_column_but_a_note():
    suite = make_suite(("label_score_auroc", "label_score_aurok"))
    table = collect(suite, three_seeds())
    assert table.metrics == (ACCURACY,)
    assert "no run has label_score_aurok, so there is no column AUROC" in table.notes


def test_a_metric_that_a_row_lacks_is_a_dash():
    runs = find_runs(make_suite(), disturbance="none", seeds=(0,))
    table = collect(make_suite(), [finished(runs[0], 0.9), finished(runs[1], 0.8, auroc=0.75)])
    (without, with_) = cells_of_markdown(to_markdown(table))[1:]
    assert without == ["none", "cross-entropy", "90.00", "-", "1", "-", "2"]
    assert with_ == ["none", "drainage", "80.00", "0.750", "1", "-", "2"]


# Which rows


def test_failed_runs_are_counted_and_their_errors_told():
    rows = three_seeds()
    runs = find_runs(make_suite(), setting="published", disturbance="symmetric 0.4", method="drainage", seeds=(0, 1, 2))
    rows[2] = failed(runs[2], "the disk is full")
    table = collect(make_suite(), rows)
    row = only_row(table)
    assert (row.seeds, row.failed, row.diverged) == ((0, 1), 1, 0)
    assert row.cells["test_accuracy"].mean == pytest.approx(77.5)
    assert "2 (1 failed)" in to_markdown(table)
    assert "failed: published, symmetric 0.4, drainage, seed 2: the disk is full" in table.notes
    assert {record["failed"] for record in to_records(table)} == {1}


DIVERGED = "the loss became nan in epoch 3: lower the learning rate and start anew"


def test_a_seed_that_diverged_is_counted_as_such():
    rows = three_seeds()
    runs = find_runs(make_suite(), setting="published", disturbance="symmetric 0.4", method="drainage", seeds=(0, 1, 2))
    rows[1:] = [failed(runs[1], "the disk is full"), failed(runs[2], DIVERGED)]
    table = collect(make_suite(), rows)
    assert (only_row(table).failed, only_row(table).diverged) == (2, 1)
    assert "1 (1 failed, 1 diverged)" in to_markdown(table)
    assert {record["diverged"] for record in to_records(table)} == {1}


def test_a_cell_all_of_whose_seeds_diverged_says_so():
    (run,) = find_runs(make_suite(), disturbance="none", method="drainage", seeds=(0,))
    table = collect(make_suite(), [failed(run, DIVERGED)])
    row = ["none", "drainage", "diverged", "diverged", "0 (1 diverged)", "-", "0"]
    assert cells_of_markdown(to_markdown(table))[1] == row


def test_a_run_that_failed_and_then_finished_is_finished():
    (run,) = find_runs(make_suite(), disturbance="none", method="drainage", seeds=(0,))
    table = collect(make_suite(), [failed(run), finished(run, 0.5), failed(run)])
    assert (only_row(table).seeds, only_row(table).failed) == ((0,), 0)
    assert not any("failed" in note for note in table.notes)


def test_failures_alone_make_rows_without_numbers():
    (run,) = find_runs(make_suite(), disturbance="none", method="drainage", seeds=(0,))
    table = collect(make_suite(), [failed(run)])
    row = only_row(table)
    assert (row.seeds, row.failed, row.cells["test_accuracy"].mean) == ((), 1, None)
    assert cells_of_markdown(to_markdown(table))[1] == ["none", "drainage", "-", "-", "0 (1 failed)", "-", "0"]


def test_rows_of_an_earlier_version_of_the_suite_are_left_out_and_counted():
    before = make_suite(("alpha = 0.1", "alpha = 0.5"))
    stale = find_runs(before, disturbance="none", method="drainage", seeds=(0, 1))
    rows = [finished(stale[0], 0.1, hardware=HARDWARE | {"cpu": "Another"}), failed(stale[1], "old"), *three_seeds()]
    table = collect(make_suite(), rows)
    assert len(table.rows) == 1
    assert "2 results belong to an earlier version of the suite, left out" in table.notes
    assert not any("old" in note or "Another" in note for note in table.notes)
    one = collect(make_suite(), [finished(stale[0], 0.1), *three_seeds()])
    assert "1 result belongs to an earlier version of the suite, left out" in one.notes


def test_nothing_but_stale_rows_is_an_empty_table():
    (run,) = find_runs(make_suite(("alpha = 0.1", "alpha = 0.5")), disturbance="none", method="drainage", seeds=(0,))
    table = collect(make_suite(), [finished(run, 0.1)])
    assert (table.parts, to_records(table), to_csv(table)) == ((), [], "")
    assert "1 result belongs" in to_markdown(table)
    assert "1 result belongs" in terminal(table)


def test_settings_budgets_and_tuning_are_parts_of_their_own():
    suite = make_suite()
    which = {"disturbance": "none", "method": "cross-entropy", "seeds": (0,)}
    chosen = [
        *find_runs(suite, **which),
        *find_runs(suite, setting="published", **which),
        *find_runs(suite, budget="quick", **which),
        *find_runs(suite, tuning="noisy", variant="l1=0, learning_rate=0.1", **which),
        *find_runs(suite, tuning="clean", variant="l1=0, learning_rate=0.1", **which),
    ]
    table = collect(suite, [finished(run, 0.1 * i) for i, run in enumerate(chosen, start=1)])
    assert {part.title: [row.cells["test_accuracy"].mean for row in part.rows] for part in table.parts} == {
        "matched settings, paper budget": [pytest.approx(10)],
        "published settings, paper budget": [pytest.approx(20)],
        "matched settings, quick budget": [pytest.approx(30)],
        "matched settings, paper budget, tuning: judged on held-out training samples with noisy labels": [
            pytest.approx(40)
        ],
        "matched settings, paper budget, tuning: judged on held-out training samples with clean labels": [
            pytest.approx(50)
        ],
    }
    assert table.parts[0].about == "The same for all."
    assert [row.part for row in table.rows][-1] == ("paper", "clean", "matched")


def test_a_run_that_two_settings_share_is_in_both():
    suite = make_suite(SHARED)
    (run,) = find_runs(suite, setting="matched", disturbance="symmetric 0.4", method="drainage", seeds=(0,))
    table = collect(suite, [finished(run, 0.75)])
    assert [(row.setting, row.cells["test_accuracy"].values) for row in table.rows] == [
        ("matched", (75.0,)),
        ("published", (75.0,)),
    ]


def test_rows_are_in_the_order_of_the_file():
    suite = make_suite()
    rows = [finished(run, 0.5) for run in find_runs(suite, seeds=(0,))][::-1]
    assert [(row.disturbance, row.method) for row in collect(suite, rows).rows] == [
        ("none", "cross-entropy"),
        ("none", "drainage"),
        ("symmetric 0.4", "cross-entropy"),
        ("symmetric 0.4", "drainage"),
    ]


# Published figures


def test_published_figures_stand_in_their_setting_alone():
    suite = make_suite(SHARED)
    runs = find_runs(suite, setting="matched", disturbance="symmetric 0.4", method="drainage")
    table = collect(suite, [finished(run, 0.75, auroc=0.5) for run in runs])
    by_setting = {part.rows[0].setting: (part, part.rows[0]) for part in table.parts}
    part, row = by_setting["published"]
    assert row.cells["test_accuracy"].published.value == 80
    assert header(table, part) == [
        *("disturbance", "method", "accuracy, %", "published", "difference", "AUROC"),
        *("seeds", "noise realised", "device s"),
    ]
    part, row = by_setting["matched"]
    assert row.cells["test_accuracy"].published is None
    assert "published" not in header(table, part)
    assert sources(table) == ["Table 9 of a paper"]


def test_a_figure_of_no_setting_stands_in_all():
    suite = make_suite(('setting = "published"', ""))
    runs = [run for setting in ("matched", "published") for run in find_runs(suite, setting=setting)]
    table = collect(suite, [finished(run, 0.5) for run in runs])
    figures = {(row.setting, row.disturbance, row.method): row.cells["test_accuracy"].published for row in table.rows}
    assert len(figures) == 8
    assert {row: figure.value for row, figure in figures.items() if figure is not None} == {
        ("matched", "symmetric 0.4", "drainage"): 80,
        ("published", "symmetric 0.4", "drainage"): 80,
    }


def test_published_figures_never_stand_beside_tuning():
    suite = make_suite(('setting = "published"', ""))
    runs = find_runs(suite, disturbance="symmetric 0.4", method="drainage", tuning="noisy")
    table = collect(suite, [finished(run, 0.5) for run in runs])
    assert len(table.rows) == 4
    assert all(cell.published is None for row in table.rows for cell in row.cells.values())
    assert sources(table) == ["no figure to compare these runs with"]
    assert "Table 9" not in to_markdown(table) + terminal(table)


def test_a_suite_without_published_figures_says_so():
    figure = (
        '[[published]]\nmethod = "drainage"\ndisturbance = "symmetric 0.4"\nmetric = "test_accuracy"\nvalue = 80.0\n'
        'sd = 0.5\nsource = "Table 9 of a paper"\nsetting = "published"\n'
    )
    suite = make_suite((figure, ""))
    assert sources(collect(suite, three_seeds())) == ["no figure is published for this suite"]


# Notes


def test_a_machine_is_named_once():
    rows = three_seeds()
    rows[2] |= {"hardware": HARDWARE | {"gpu": "Voodoo 2"}}
    notes = [note for note in collect(make_suite(), rows).notes if note.startswith("measured on")]
    assert notes == [
        "measured on Abacus 9, 2 cores, 4 GiB; catchment 0.1.0, torch 2.6.0",
        "measured on Voodoo 2, Abacus 9, 2 cores, 4 GiB; catchment 0.1.0, torch 2.6.0",
    ]
    rows[1] |= {"versions": VERSIONS | {"torch": "2.7.0"}}
    assert len([note for note in collect(make_suite(), rows).notes if note.startswith("measured on")]) == 3


def tuned(suite, accuracies, tuning="noisy", method="drainage"):
    runs = find_runs(suite, disturbance="none", method=method, tuning=tuning)
    return [finished(run, accuracy) for run, accuracy in zip(runs, accuracies, strict=True)]


def best(table):
    return [note for note in table.notes if note.startswith("best tried")]


def test_the_best_point_is_told_for_each_method():
    suite = make_suite()
    rows = tuned(suite, [0.5, 0.7, 0.9, 0.6]) + tuned(suite, [0.1, 0.2, 0.0, 0.15], method="cross-entropy")
    assert best(collect(suite, rows)) == [
        "best tried: matched, paper budget, noisy validation labels, none, cross-entropy: l1=0, learning_rate=0.1 "
        "(accuracy 20.00)",
        "best tried: matched, paper budget, noisy validation labels, none, drainage: l1=0.001, learning_rate=0.01 "
        "(accuracy 90.00)",
    ]


def test_noisy_and_clean_validation_labels_have_a_best_point_each():
    suite = make_suite()
    rows = tuned(suite, [0.5, 0.7, 0.9, 0.6]) + tuned(suite, [0.95, 0.7, 0.9, 0.6], tuning="clean")
    notes = best(collect(suite, rows))
    assert [("noisy" in note, "clean" in note, "l1=0, learning_rate=0.01" in note) for note in notes] == [
        (True, False, False),
        (False, True, True),
    ]


def test_of_errors_the_fewest_are_best():
    suite = make_suite(
        ('key = "test_accuracy"', 'key = "test_nll"'), ('metric = "test_accuracy"', 'metric = "test_nll"')
    )
    rows = tuned(suite, [0.5, 0.7, 0.2, 0.6])
    for row in rows:
        row["metrics"]["validation_nll"] = row["metrics"]["validation_accuracy"]
    (note,) = best(collect(suite, rows))
    assert "l1=0.001, learning_rate=0.01" in note


def test_a_grid_has_a_column_of_what_was_tried():
    suite = make_suite()
    table = collect(suite, tuned(suite, [0.5, 0.7, 0.9, 0.6]))
    (part,) = table.parts
    assert header(table, part)[:3] == ["disturbance", "method", "tried"]
    assert [row.variant for row in part.rows] == [
        f"l1={l1}, learning_rate={rate}" for l1 in ("0", "0.001") for rate in ("0.01", "0.1")
    ]


# Protocol


def protocol(suite, setting="matched", **selection):
    rows = [finished(run, 0.5) for run in find_runs(suite, setting=setting, seeds=(0,), **selection)]
    return dict(next(part for part in collect(suite, rows).parts if part.rows[0].setting == setting).protocol)


def test_the_protocol_says_equal_values_once_and_others_by_method():
    matched, published = protocol(make_suite()), protocol(make_suite(), "published")
    assert (matched["learning rate"], matched["L1 penalty"], matched["weight decay"]) == ("0.1", "0.001", "0")
    assert published["L1 penalty"] == "cross-entropy: 0; drainage: 0.002"
    assert published["weight decay"] == "cross-entropy: 0.0001; drainage: 0"
    assert (matched["epochs"], matched["batch size"], matched["schedule"]) == ("20", "128", "cosine")
    assert matched["data"] == "digits, all training samples, net auto"
    assert matched["test labels"] == "clean, as published with the data"
    assert matched["epoch reported"] == "last"
    assert matched["validation"] == "none: nothing was chosen"
    assert not {"step size", "step factor", "Nesterov", "early stopping", "bfloat16"} & matched.keys()


def test_the_protocol_of_quick_runs_and_of_tuning():
    quick = protocol(make_suite(), budget="quick")
    assert quick["epochs"] == "10"
    assert quick["data"] == "digits, at most 12000 training samples, stratified, net auto"
    tuning = protocol(make_suite(), tuning="clean")
    assert tuning["test labels"] == "not looked at"
    assert tuning["validation"] == "20% of the training set (seed 42), clean labels"
    assert not {"L1 penalty", "learning rate"} & tuning.keys()  # on the grid


def test_the_protocol_hides_nothing_that_one_method_alone_does():
    suite = make_suite(
        (
            "methods.drainage = { l1 = 2e-3, momentum = 0.8 }",
            'methods.drainage = { nesterov = true, schedule = "step", step_size = 7, early_stopping = 4 }',
        ),
        ("seeds =", "validation = 0.1\nseeds ="),
    )
    lines = protocol(suite, "published")
    assert lines["Nesterov"] == "cross-entropy: False; drainage: True"
    assert lines["schedule"] == "cross-entropy: cosine; drainage: step"
    assert lines["step size"] == "cross-entropy: 10; drainage: 7"
    assert lines["early stopping"] == "cross-entropy: 0; drainage: 4"
    assert lines["epoch reported"] == "cross-entropy: last; drainage: best on validation"
    assert lines["validation"] == "10% of the training set (the run's seed), noisy labels"


def test_momentum_is_of_sgd():
    assert protocol(make_suite())["momentum"] == "0.9"
    assert "momentum" not in protocol(make_suite(("epochs = 20", 'epochs = 20\noptimizer = "adam"')))


# What is written


ODD = 'a|b "c", d'


def odd_suite():
    """A method whose name has what Markdown and CSV must escape."""
    return make_suite(
        ('objective = "drainage"', f"objective = \"drainage\"\nname = '{ODD}'"),
        ('method = "drainage"', f"method = '{ODD}'"),
        ("methods.drainage", f"methods.'{ODD}'"),
        ('title = "AUROC"', 'title = "AU|ROC"'),
    )


def odd_rows():
    runs = find_runs(odd_suite(), setting="published", method=ODD, disturbance="symmetric 0.4", seeds=(0, 1))
    return [finished(run, a, auroc=1 / 3, rate=0.1) for run, a in zip(runs, (0.1 + 0.2, 2 / 3), strict=True)]


def test_markdown_keeps_cells_apart():
    table = collect(odd_suite(), odd_rows())
    titles, row = cells_of_markdown(to_markdown(table))
    assert titles == [
        *("disturbance", "method", "accuracy, %", "published", "difference", "AU|ROC"),
        *("seeds", "noise realised", "device s"),
    ]
    # 30 and 66.67: mean 48.333, sd 36.667 / sqrt 2
    assert row == [
        *("symmetric 0.4", ODD, "48.33 ± 25.93", "80.00 ± 0.50", "-31.67", "0.333 ± 0.000", "2", "10.00%", "3"),
    ]
    assert to_markdown(table).startswith("# A tiny suite\n\nFor tests.\n\n## Published settings, paper budget\n")
    assert "- published: Table 9 of a paper\n" in to_markdown(table)


def test_csv_keeps_every_float_exactly():
    table = collect(odd_suite(), odd_rows())
    records = to_records(table)
    read = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(read) == len(records) == 2
    for line, record in zip(read, records, strict=True):
        assert line.keys() == record.keys()
        for column, value in record.items():
            assert line[column] == ("" if value is None else str(value))
            if isinstance(value, float):
                assert float(line[column]) == value


def test_records_say_everything_about_a_number():
    records = to_records(collect(odd_suite(), odd_rows()))
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    record = next(r for r in records if r["setting"] == "published" and r["metric"] == "test_accuracy")
    assert record == {
        "suite": "tiny",
        "budget": "paper",
        "tuning": None,
        "setting": "published",
        "disturbance": "symmetric 0.4",
        "method": ODD,
        "variant": "",
        "metric": "test_accuracy",
        "percent": True,
        "mean": pytest.approx(100 * (0.3 + 2 / 3) / 2),
        "sd": pytest.approx(100 * (2 / 3 - 0.3) / 2**0.5),
        "seeds": 2,
        "failed": 0,
        "diverged": 0,
        "published": 80.0,
        "published_sd": 0.5,
        "difference": pytest.approx(50 * (0.3 + 2 / 3) - 80),
        "source": "Table 9 of a paper",
        "noise_rate_realised": pytest.approx(0.1),
        "device_seconds": 3.0,
    }


def test_the_terminal_shows_what_markdown_shows():
    suite = make_suite(('title = "AUROC"', 'title = "[b]AUROC[/x]"'))
    rows = [finished(run, 0.5, auroc=0.25, rate=0.2) for run in find_runs(suite, setting="published", seeds=(0,))]
    table = collect(suite, [*rows[:-1], failed(find_runs(suite, setting="published", seeds=(0,))[-1], "[/i] broke")])
    printed, markdown = terminal(table), to_markdown(table)
    for row in cells_of_markdown(markdown):
        for text in row:
            assert text in printed
    for note in table.notes:
        assert note in printed
    assert "[b]AUROC[/x]" in printed
    assert "[/i] broke" in printed
    assert printed.count("L1 penalty: cross-entropy: 0; drainage: 0.002") == 1


def test_the_terminal_names_a_disturbance_once():
    suite = make_suite()
    table = collect(suite, [finished(run, 0.5) for run in find_runs(suite, setting="matched", seeds=(0,))])
    lines = [line.split()[:2] for line in terminal(table).splitlines() if "50.00" in line]
    assert lines[:4] == [
        ["none", "cross-entropy"],
        ["drainage", "50.00"],
        ["symmetric", "0.4"],
        ["drainage", "50.00"],
    ]
