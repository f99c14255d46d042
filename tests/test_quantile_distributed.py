"""Two processes with a part of the batch each rank, normalise and learn as one process with all of it."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from catchment.quantile import QuantileActivation, QuantileLoss
from catchment.training.distributed import leave_process_group

pytestmark = pytest.mark.slow

STEPS = 3
# samples in all, of which the first process holds the first share: by rank, by rank over unequal shares, by table
CASES = {"rank": ((40, 6), 20), "unequal": ((40, 6), 13), "table": ((24, 4, 20, 20), 12), "loss": ((30, 5), 15)}


def _randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _make(case):
    torch.manual_seed(0)
    channels = CASES[case][0][1]
    if case == "loss":
        return nn.Linear(channels, channels), QuantileLoss(channels)
    options = {"pre_norm": case != "rank", "bandwidth": "scaled" if case == "unequal" else 0.5}
    first = nn.Conv2d(channels, channels, 1) if case == "table" else nn.Linear(channels, channels)
    return first, QuantileActivation(channels, **options)


class _Net(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.first, self.second = _make(case)
        self.case = case

    def forward(self, x, target):
        if self.case == "loss":
            return None, self.second(self.first(x), target)
        out = self.second(self.first(x))
        return out, (out * target).flatten(1).sum(1).mean()


def _batch(case, step):
    shape, _ = CASES[case]
    x = _randn(*shape, seed=step) * 2 + 1
    target = torch.arange(shape[0]) % shape[1] if case == "loss" else _randn(*shape, seed=100 + step)
    return x, target


def _with_equal_values():
    """50 samples, ranked exactly and by table, a part of whose values is the same; most of it in the second process."""
    for shape in ((50, 3), (50, 3, 10, 10)):
        x = _randn(*shape, seed=8)
        x[15:45] = -0.37
        yield x


def _run(case, net, part):
    """Outputs, gradients and state after some steps of gradient descent with the part of each batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    outputs, gradients = [], []
    for step in range(STEPS):
        x, target = _batch(case, step)
        out, loss = net(x[part], target[part])
        optimizer.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
        outputs.append(out if out is None else out.detach())
        optimizer.step()
    return {"outputs": outputs, "gradients": gradients, "state": copy.deepcopy(net.state_dict())}


def _save_case(case, rank, folder):
    """In a function of its own: a DistributedDataParallel must be gone before the process group is."""
    (samples, *_), first = CASES[case]
    net = _Net(case)
    part = slice(0, first) if rank == 0 else slice(first, samples)
    result = _run(case, DistributedDataParallel(net, broadcast_buffers=False), part)
    torch.save(result | {"state": net.state_dict()}, folder / f"{case}-{rank}.pt")


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for case in CASES:
        _save_case(case, rank, folder)
    x = _randn(50, 3, seed=7)
    layer = QuantileActivation(3, pre_norm=False, post_norm=False)
    half = layer(x[:20] if rank == 0 else x[20:])
    ties = []
    for values in _with_equal_values():
        tied = QuantileActivation(3, pre_norm=False, post_norm=False)
        tied(values[:20] if rank == 0 else values[20:])
        ties.append(tied.running_ties)
    torch.save({"half": half, "mass": layer.running_mass, "ties": ties}, folder / f"bits-{rank}.pt")
    if rank == 0:  # evaluation by one process alone must not wait for the other
        torch.save(layer.eval()(x), folder / "alone.pt")
    dist.barrier()
    leave_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-processes")
    mp.spawn(_worker, (folder,), nprocs=2)
    return folder


def _loaded(folder, case):
    return [torch.load(folder / f"{case}-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ["rank", "table", "loss"])
def test_two_processes_learn_as_one(folder, case):
    one = _run(case, _Net(case), slice(None))
    for result in _loaded(folder, case):
        for step in range(STEPS):
            for ours, expected in zip(result["gradients"][step], one["gradients"][step], strict=True):
                # a rounding of the mean moves a few values to the next cell of a table
                assert (ours - expected).norm() <= 5e-3 * expected.norm() + 1e-5
        for name, value in one["state"].items():
            difference = (result["state"][name] - value).abs().sum()
            assert difference <= 5e-3 * value.abs().sum() + 1e-4, name
    if case != "loss":
        halves = [result["outputs"][0] for result in _loaded(folder, case)]
        difference = (torch.cat(halves) - one["outputs"][0]).abs()
        assert difference.max() < 4e-3  # one cell of 1/2048, times the sqrt(12) of post_norm, and no more than a few
        assert difference.mean() < 1e-5


def test_unequal_shares_give_the_outputs_of_one_process(folder):
    one = _run("unequal", _Net("unequal"), slice(None))
    parts = _loaded(folder, "unequal")
    torch.testing.assert_close(torch.cat([p["outputs"][0] for p in parts]), one["outputs"][0], rtol=1e-4, atol=1e-4)
    for name, value in parts[0]["state"].items():
        torch.testing.assert_close(parts[1]["state"][name], value)


def test_ranks_and_counts_are_bitwise_those_of_one_process(folder):
    layer = QuantileActivation(3, pre_norm=False, post_norm=False)
    out = layer(_randn(50, 3, seed=7))
    halves = _loaded(folder, "bits")
    assert torch.equal(torch.cat([h["half"] for h in halves]), out)
    assert all(torch.equal(h["mass"], layer.running_mass) for h in halves)
    for i, values in enumerate(_with_equal_values()):
        tied = QuantileActivation(3, pre_norm=False, post_norm=False)
        tied(values)
        assert (tied.running_ties[0] > 0).sum(1).tolist() == [1, 1, 1]
        assert all(torch.equal(h["ties"][i], tied.running_ties) for h in halves)
    assert torch.equal(torch.load(folder / "alone.pt"), out)
