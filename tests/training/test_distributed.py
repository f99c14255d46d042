"""Every kind of objective on two gloo processes, through the loop as it is."""

import contextlib
import io
import json
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from tiny_objectives import make_dataset, make_model, make_objectives

from catchment import cli
from catchment.experiments.run import check_new_folder
from catchment.training import TrainingConfig, train
from catchment.training.distributed import (
    all_gather_rows,
    from_first_process,
    leave_process_group,
    mean_over_processes,
    on_first_process,
    rank_and_world_size,
)

CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.1, threads=1, device="cpu")


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def _worker(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name in make_objectives():
        model, columns = make_model(name, seed=rank)  # differing weights: the first process's must win
        run_folder = folder / name
        if rank == 0:
            run_folder.mkdir()
        torch.distributed.barrier()
        result = train(model, make_dataset(), CONFIG, columns=columns, folder=run_folder)
        torch.save({"state": model.state_dict(), "history": result.history}, folder / f"{name}-{rank}.pt")
    rows = all_gather_rows(torch.full((rank + 1, 2), float(rank)))
    mean = mean_over_processes(torch.tensor(float(rank)))
    torch.save(
        {
            "rows": rows,
            "mean": mean,
            "first": from_first_process({"rank": rank}),
            "who": rank_and_world_size(),
        },
        folder / f"helpers-{rank}.pt",
    )
    refused = ""
    try:
        on_first_process(lambda: check_new_folder(folder))  # holds the objectives' folders
    except ValueError as error:
        refused = str(error)
    (folder / f"refused-{rank}").write_text(refused)
    leave_process_group()

    # as torchrun starts it
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
    options = ["--epochs", "2", "--threads", "1", "--device", "cpu", "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["train", *options, "--out", str(folder / "by-command")]) == 0
    (folder / f"printed-{rank}").write_text(printed.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-processes")
    mp.spawn(_worker, (_free_port(), folder), nprocs=2)
    return folder


def _loaded(folder, name, rank):
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=False)


@pytest.mark.parametrize("name", make_objectives())
def test_two_processes_end_with_the_same_model_and_report_the_same_loss(folder, name):
    first, second = _loaded(folder, name, 0), _loaded(folder, name, 1)
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert [row["train_loss"] for row in first["history"]] == [row["train_loss"] for row in second["history"]]
    assert first["history"][-1]["train_loss"] < first["history"][0]["train_loss"]


@pytest.mark.parametrize(
    "name", ["cross-entropy", "drainage", "not-exclusive", "class-counts", "other-logits", "index"]
)
def test_two_processes_do_what_one_does(folder, name):
    """The nets have no batch statistics, and take at least 20 steps."""
    model, columns = make_model(name, seed=0)
    assert CONFIG.epochs * (len(make_dataset()) // CONFIG.batch_size) >= 20
    train(model, make_dataset(), CONFIG, columns=columns)
    shared = _loaded(folder, name, 0)["state"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(shared[key], value, rtol=0, atol=1e-5, msg=key)


def test_only_the_first_process_writes(folder):
    lines = (folder / "drainage" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_what_processes_tell_each_other(folder):
    for rank in (0, 1):
        told = torch.load(folder / f"helpers-{rank}.pt", weights_only=False)
        assert told["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
        assert told["mean"].item() == 0.5
        assert told["first"] == {"rank": 0}
        assert told["who"] == (rank, 2)


def test_what_the_first_process_finds_wrong_stops_all(folder):
    told = [(folder / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1] == f"{folder} is not empty: choose another --out"


def test_alone_nothing_is_exchanged():
    rows = torch.ones(2)
    assert all_gather_rows(rows) is rows
    assert mean_over_processes(rows) is rows
    assert from_first_process("x") == "x"
    assert rank_and_world_size() == (0, 1)


def test_the_command_joins_the_processes_that_torchrun_starts(folder):
    printed = [(folder / f"printed-{rank}").read_text() for rank in (0, 1)]
    assert printed[1] == ""
    metrics = json.loads(printed[0])
    assert metrics["epochs"] == 2
    out = folder / "by-command"
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert [json.loads(line)["epoch"] for line in (out / "history.jsonl").read_text().splitlines()] == [1, 2]
