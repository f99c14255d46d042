"""The table of docs/speed.md is the CSV's."""

import csv
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSV = ROOT / "results" / "speed" / "losses-cpu.csv"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("benchmark_losses", ROOT / "benchmarks" / "losses.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(not CSV.exists(), reason="results/ is not part of a source distribution")
def test_the_page_shows_the_csv(benchmark):
    rows = list(csv.DictReader(CSV.open(newline="")))
    first, last = benchmark.TABLE
    shown = (ROOT / "docs" / "speed.md").read_text().split(first)[1].split(last)[0].strip()
    assert shown == benchmark.table(rows)
    assert {row["threads"] for row in rows} == {"1", "2"}


def test_the_table_by_hand(benchmark, tmp_path):
    rows = [
        {"loss": "gce", "samples": "4", "classes": c, "threads": t, "time_ratio": ratio, "memory_ratio": "0.333"}
        for c, t, ratio in (("10", "1", "3.0"), ("10", "2", "2.5"), ("100", "1", "0.456"))
    ]
    page = tmp_path / "page.md"
    page.write_text("before\n{}\nold\n{}\nafter\n".format(*benchmark.TABLE))
    benchmark.write_table(page, rows)
    assert page.read_text().splitlines()[2:-2] == [
        "| loss | 4 × 10 | 4 × 100 | memory, 4 × 100 |",
        "| --- | ---: | ---: | ---: |",
        "| gce | 3.00 / 2.50 | 0.46 | 0.33 |",
    ]


def test_every_textbook_loss_equals_the_library(benchmark):
    cases = {case.name: case for case in benchmark.cases(16, 7, "cpu", benchmark.torch.float32, ())}
    for name in benchmark.TEXTBOOK:
        mine = cases[name.removeprefix("textbook: ")]
        ours, theirs = mine.call(), cases[name].call()
        benchmark.torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
        gradients = [benchmark.torch.autograd.grad(c.call(), c.logits, c.upstream)[0] for c in (mine, cases[name])]
        benchmark.torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_peak_memory_counts_what_is_held_at_a_time(benchmark):
    torch = benchmark.torch
    x = torch.zeros(1000, 1000)
    assert benchmark.cpu_peak_bytes(lambda: x + 1) == pytest.approx(4e6, rel=1e-3)
    assert benchmark.cpu_peak_bytes(lambda: (x + 1) + 1) == pytest.approx(8e6, rel=1e-3)
    assert benchmark.cpu_peak_bytes(lambda: [(x + 1).sum() for _ in range(3)]) < 4_100_000
