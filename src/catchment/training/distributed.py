"""What a run needs to know of the processes it shares its work with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from catchment.objective import Model

_SECONDS_TO_LET_GO = 0.2


def rank_and_world_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group that ``torchrun`` announces, if it does: gloo on a CPU, nccl on a GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        leave_process_group()


def leave_process_group() -> None:
    """Leave the process group when the threads of its last calls have let go of their tensors.

    Gloo waits for these threads with the interpreter locked, and one that frees a tensor waits for the lock: in torch
    2.6 a process hung there now and then.
    """
    time.sleep(_SECONDS_TO_LET_GO)
    dist.destroy_process_group()


def distribute(model: Model) -> nn.Module:
    """The model as one of several processes runs it; the model itself in a single process.

    An objective keeps its own buffers equal over processes, so buffers are not broadcast. A head that the objective
    does not read gets no gradient, and is looked for only then.
    """
    if rank_and_world_size()[1] == 1:
        return model
    reads_all = "logits" in model.objective.inputs
    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=not reads_all)


def synchronise_batch_norm(model: Model, device: torch.device) -> None:
    """Let BatchNorm see the batch of all processes, in place; on CUDA, as SyncBatchNorm refuses CPUs."""
    if device.type == "cuda" and rank_and_world_size()[1] > 1:
        model.net = nn.SyncBatchNorm.convert_sync_batchnorm(model.net)  # type: ignore[no-untyped-call]


def from_first_process(value: Any) -> Any:
    """What the first process holds as ``value``, on every process."""
    if rank_and_world_size()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_first_process(check: Callable[[], None]) -> None:
    """Run ``check`` on the first process alone; if it raises a ValueError there, all processes raise it."""
    problem = None
    if rank_and_world_size()[0] == 0:
        try:
            check()
        except ValueError as error:
            problem = str(error)
    problem = from_first_process(problem)
    if problem is not None:
        raise ValueError(problem)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a number over all processes; the number itself in a single process."""
    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in their order; ``rows`` itself in a single process.

    Processes may hold different numbers of rows. It carries no gradient: it is for an objective's state.
    """
    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return rows
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, rows.detach().cpu())
    return torch.cat(gathered).to(rows.device)
