"""``bench``, ``report`` and ``list suites``: what they print, what they write, how they end."""

import csv
import json
import shutil
import signal

import pytest
import tiny_suite

from catchment import cli
from catchment.experiments import bench as runner
from catchment.experiments.bench import FAILED, RESULTS
from catchment.experiments.suite import list_suites
from catchment.files import append_jsonl, read_jsonl


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def one_error_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished bench of the tiny suite, with one worker."""
    folder = tmp_path_factory.mktemp("bench")
    path = tiny_suite.write_suite(folder)
    assert run("bench", path, "--workers", "1", "--device", "cpu", "--out", folder / "out") == 0
    return path, folder / "out"


def test_bench_leaves_results_a_table_and_pages(finished):
    _, out = finished
    rows = read_jsonl(out / RESULTS)
    assert len(rows) == 8
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert names == ["report.html", "results.jsonl", "runs", "suite.json", "table.csv", "table.md"]
    with (out / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    of_drainage = next(r for r in table if (r["method"], r["disturbance"]) == ("drainage", "none"))
    measured = [
        100 * row["metrics"]["test_accuracy"]
        for row in rows
        if (row["method"], row["disturbance"]) == ("drainage", "none")
    ]
    assert float(of_drainage["mean"]) == pytest.approx(sum(measured) / 2)
    assert of_drainage["seeds"] == "2"


def test_the_same_bench_again_prints_the_same_table_and_runs_nothing(finished, capsys):
    path, out = finished
    before = (out / RESULTS).read_bytes()
    assert run("bench", path, "--device", "cpu", "--out", out) == 0
    captured = capsys.readouterr()
    assert "tiny: 8 runs, 8 done before" in captured.err
    assert "symmetric 0.2" in captured.out
    assert captured.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert (out / RESULTS).read_bytes() == before
    assert run("bench", path, "--device", "cpu", "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["suite"], printed["failed"]) == ("tiny", 0)
    with (out / "table.csv").open() as file:
        assert [record["mean"] for record in printed["results"]] == [float(row["mean"]) for row in csv.DictReader(file)]


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(finished, tmp_path, capsys):
    path, out = finished
    assert run("bench", path, "--dry-run", "--seeds", "3", "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["done"] for row in printed["runs"]] == [True] * 8 + [False] * 4
    assert run("bench", path, "--dry-run", "--only", "drainage", "--out", tmp_path / "new") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "4 runs, 0 done"
    assert not (tmp_path / "new").exists()


def test_more_seeds_are_added_to_what_is_there(finished, tmp_path, capsys):
    path, _ = finished
    options = ["--workers", "1", "--device", "cpu", "--only", "drainage", "--only", "none", "--out", tmp_path / "out"]
    assert run("bench", path, "--seeds", "1", *options) == 0
    assert "\n[1/1] matched, none, drainage, seed 0: accuracy " in capsys.readouterr().err
    assert run("bench", path, "--seeds", "0,5", *options) == 0
    assert "tiny: 2 runs, 1 done before; 1 at a time" in capsys.readouterr().err
    assert [row["seed"] for row in read_jsonl(tmp_path / "out" / RESULTS)] == [0, 5]


def test_tuning_says_which_labels_it_judges_on(tmp_path, capsys):
    path = tiny_suite.write_suite(tmp_path, tiny_suite.TEXT + "[tuning]\nl1 = [0.0, 0.1]\n")
    options = ["--workers", "1", "--device", "cpu", "--only", "drainage", "--only", "symmetric 0.2"]
    assert run("bench", path, "--tuning", *options, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert "tuning on 20 % of the training set (seed 42) with noisy labels" in captured.err
    assert "with noisy labels" in captured.out
    assert [row["variant"] for row in read_jsonl(tmp_path / "out" / RESULTS)] == ["l1=0", "l1=0.1"]
    assert run("bench", path, "--tuning", "--validation-labels", "clean", *options, "--out", tmp_path / "out") == 0
    assert "with clean labels" in capsys.readouterr().err
    assert run("bench", path, "--validation-labels", "clean", "--out", tmp_path / "out") == 2
    assert "--validation-labels goes with --tuning" in one_error_line(capsys)


def test_failed_runs_are_an_exit_status_of_1_and_a_line_in_the_table(tmp_path, capsys):
    text = tiny_suite.TEXT.replace('noise = "symmetric:0.2"', 'noise = "relabel:7"')
    path = tiny_suite.write_suite(tmp_path, text)
    assert run("bench", path, "--workers", "1", "--device", "cpu", "--seeds", "1", "--out", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "[3/4] matched, symmetric 0.2, cross-entropy, seed 0: failed: there is no class '7'" in captured.err
    assert "failed: matched, symmetric 0.2, cross-entropy, seed 0: there is no class '7'" in captured.out
    assert "(1 failed)" in captured.out


def test_ctrl_c_says_how_far_it_got_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    path = tiny_suite.write_suite(tmp_path)
    options = ["bench", path, "--workers", "1", "--device", "cpu", "--out", tmp_path / "out"]
    real = runner.append_jsonl

    def interrupt_after_three(file, row):
        real(file, row)
        if len(read_jsonl(file)) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runner, "append_jsonl", interrupt_after_three)
    assert run(*options) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped with 3 of 8 runs done; the same command goes on"
    monkeypatch.undo()
    assert run(*options) == 0
    assert "tiny: 8 runs, 3 done before" in capsys.readouterr().err
    assert len({row["key"] for row in read_jsonl(tmp_path / "out" / RESULTS)}) == 8


def test_a_torn_line_is_said_and_the_runs_of_others_are_counted(finished, tmp_path, capsys, monkeypatch):
    path, out = finished
    with (out / RESULTS).open("ab") as file:
        file.write(b'{"key":')
    assert run("bench", path, "--device", "cpu", "--out", out) == 0
    assert "note: the last line of" in capsys.readouterr().err
    rows = read_jsonl(out / RESULTS)

    def done_elsewhere(runs, folder, **options):
        for row in rows:
            append_jsonl(folder / RESULTS, row)

    monkeypatch.setattr(runner, "run_all", done_elsewhere)
    assert run("bench", path, "--device", "cpu", "--out", tmp_path / "out") == 0
    assert "8 runs were done by another runner meanwhile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-asymetric"], "there is no suite 'digits-asymetric', and no file of that name: did you mean"),
        (["digits-openset", "--only", "drainage, constant zd"], "did you mean 'drainage, constant z_d'?"),
        (["digits-openset", "--setting", "tuned"], "suite digits-openset has no setting 'tuned': it has matched"),
        (["digits-openset", "--seeds", "many"], "give how many (5), or which ones with commas (1,2,3)"),
        (["digits-openset", "--device", "gpu"], "device 'gpu' can't be used here"),
        (["digits-openset", "--budget", "rich"], "'rich' is not one of"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("bench", *arguments) == 2
    assert message in one_error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_suite_whose_data_is_not_here_says_what_is_missing(tmp_path, capsys):
    path = tiny_suite.write_suite(tmp_path)
    (tmp_path / "clouds.npz").unlink()
    assert run("bench", path, "--out", tmp_path / "out") == 2
    assert "suite tiny needs the data set 'clouds.npz'" in one_error_line(capsys)
    assert not (tmp_path / "out").exists()
    assert run("bench", path, "--dry-run", "--out", tmp_path / "out") == 0
    assert "suite tiny needs the data set 'clouds.npz'" in capsys.readouterr().err


def test_report_makes_every_kind_of_page_again(finished, tmp_path, capsys):
    _, out = finished
    runs = sorted((out / "runs").iterdir())
    for folder in (out, runs[0]):
        page = (folder / "report.html").read_bytes()
        (folder / "report.html").unlink()
        assert run("report", folder) == 0
        assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
        assert (folder / "report.html").read_bytes() == page
    assert run("report", runs[0], runs[1], "--out", tmp_path / "both.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "both.html")}
    assert (tmp_path / "both.html").stat().st_size > 1000


def test_report_maps_the_features_of_one_run(finished, tmp_path, capsys):
    _, out = finished
    folder = shutil.copytree(next((out / "runs").iterdir()), tmp_path / "run")
    assert run("report", folder, "--tsne") == 0
    assert "t-SNE of the features of" in (folder / "report.html").read_text()
    # once made it stays
    (folder / "report.html").unlink()
    assert run("report", folder) == 0
    assert "t-SNE of the features of" in (folder / "report.html").read_text()
    capsys.readouterr()
    for folders in ((folder, folder), (out,)):
        assert run("report", *folders, "--tsne") == 2
        assert "--tsne is of one run: name one run's folder" in one_error_line(capsys)


def test_report_of_what_is_no_run_is_one_line(finished, tmp_path, capsys):
    _, out = finished
    run_folder = next((out / "runs").iterdir())
    assert run("report", tmp_path) == 2
    assert "holds no finished run" in one_error_line(capsys)
    assert run("report", run_folder, "--out", tmp_path / "page.html") == 2
    assert "leave --out out" in one_error_line(capsys)
    assert run("report", run_folder, tmp_path, "--out", tmp_path / "page.html") == 2
    assert "holds no finished run" in one_error_line(capsys)
    (tmp_path / "suite.json").write_text((out / "suite.json").read_text())
    assert run("report", tmp_path) == 2
    assert "no run of tiny has ended" in one_error_line(capsys)


def test_list_suites_says_what_each_needs(capsys):
    assert run("list", "suites", "--json") == 0
    suites = json.loads(capsys.readouterr().out)["suites"]
    assert [suite["name"] for suite in suites] == list_suites()
    asymmetric = next(suite for suite in suites if suite["name"] == "digits-asymmetric")
    assert asymmetric["runs"] == 4 * 8 * 5 * 2 - 4 * 2 * 5  # drainage's settings are equal
    assert asymmetric["not_on_disk"] == "-"


def test_list_suites_shortens_long_lists_and_names_what_is_not_on_disk(capsys, tmp_path):
    assert run("list", "suites", "--data-dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "and 7 more (--json has all)" in " ".join(line.strip() for line in lines)
    mnist = next(line for line in lines if line.startswith("mnist-789"))
    assert mnist.split()[-1] == "mnist"
    assert next(line for line in lines if line.startswith("digits-asymmetric")).split()[-1] == "-"


def test_a_failed_run_is_tried_again_by_the_same_command(tmp_path, capsys):
    path = tiny_suite.write_suite(tmp_path)
    options = ["bench", path, "--workers", "1", "--device", "cpu", "--seeds", "1", "--only", "drainage"]
    assert run(*options, "--out", tmp_path / "out") == 0
    rows = read_jsonl(tmp_path / "out" / RESULTS)
    (tmp_path / "out" / RESULTS).unlink()
    names = {key: rows[0][key] for key in ("key", "budget", "setting", "disturbance", "method", "variant", "seed")}
    append_jsonl(tmp_path / "out" / RESULTS, {**names, "tuning": None, "status": FAILED, "error": "no luck"})
    capsys.readouterr()
    assert run(*options, "--out", tmp_path / "out") == 0
    assert "no luck" not in capsys.readouterr().out
