"""k processes with parts of a batch do what one process does with the whole: loss, gradient, C."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from catchment import Model
from catchment.quasibinary import QuasibinaryLoss, recalibrate
from catchment.training.distributed import leave_process_group

pytestmark = pytest.mark.slow

CLASSES = 4
SIZES = {1: (7,), 2: (5, 2), 3: (4, 1, 2)}
BATCHES = (
    "plain",
    "some q above 1",
    "no label in the last process",
    "no label at all",
    "indices",
    "nothing known in the last process",
    "logits far apart",
)


class Net(nn.Module):
    """Without statistics of the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()

    def forward(self, x):
        return {"logits": self.layers(x)}


def make_model():
    """With a C that an earlier batch left, for the batch without labels."""
    model = Model(Net(), QuasibinaryLoss(penalty_weight=0.8).double())
    model.objective.log_normalizer.fill_(1.1)
    model.objective.num_batches.fill_(1)
    return model


def make_batch(name, rank=0, world_size=1):
    """This process's share of seven rows; what is special about them is in the name."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = (torch.rand(7, CLASSES, generator=generator) < 0.4).double()
    if name == "some q above 1":
        y[:-1] = 1
    elif name == "no label in the last process":
        y[-2:] = 0
    elif name == "no label at all":
        y[:] = 0
    elif name == "indices":
        y = torch.tensor([1, -1, 3, -100, 0, -1, 2])
    elif name == "nothing known in the last process":
        y[-2:] = -100
    sizes = SIZES[world_size]
    return {"inputs": x.split(sizes)[rank], "target": y.split(sizes)[rank]}


def one_step(name, rank, world_size):
    model = make_model()
    if name == "logits far apart":  # of the processes
        model.net.layers[-1].weight.data *= 1e4
    run = DistributedDataParallel(model, broadcast_buffers=False) if world_size > 1 else model
    loss = run(make_batch(name, rank, world_size))
    loss.backward()
    return {
        "loss": loss.detach(),
        "gradients": [p.grad for p in model.net.parameters()],
        "buffers": dict(model.objective.named_buffers()),
    }


def some_steps(rank, world_size):
    model = make_model()
    run = DistributedDataParallel(model, broadcast_buffers=False) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for name in BATCHES[:-1]:
        optimizer.zero_grad()
        run(make_batch(name, rank, world_size)).backward()
        optimizer.step()
    return model.state_dict()


def accumulated(rank, world_size):
    """Every process has its share of the batch in two parts, the second of them perhaps empty."""
    model = make_model()
    batch = make_batch("some q above 1", rank, world_size)
    inputs, target = batch["inputs"], batch["target"]
    with torch.no_grad():
        totals = model.objective.observe(model.net(inputs)["logits"], target)
    for rows in (slice(0, 1), slice(1, None)):
        model.objective(model.net(inputs[rows])["logits"], target[rows], totals=totals).backward()
    gradients = [p.grad for p in model.net.parameters()]
    if world_size > 1:  # as DistributedDataParallel averages them
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= world_size
    return {"gradients": gradients, "buffers": dict(model.objective.named_buffers())}


def recalibrated(rank, world_size):
    model = make_model()
    batch = make_batch("plain", rank, world_size)
    recalibrate(model, [{k: v[:1] for k, v in batch.items()}, {k: v[1:] for k, v in batch.items()}])
    return model.objective.log_normalizer


def collectives_forward(rank, world_size):
    """How often processes exchange something, with and without any q above 1."""
    calls = []
    originals = {name: getattr(dist, name) for name in ("all_reduce", "all_gather_into_tensor")}
    for name, function in originals.items():
        setattr(dist, name, lambda *args, _f=function, **kwargs: calls.append(1) or _f(*args, **kwargs))
    counts = []
    for name in ("plain", "some q above 1"):
        model, batch = make_model(), make_batch(name, rank, world_size)
        loss = model(batch)
        counts.append(len(calls))
        loss.backward()
        assert len(calls) == counts[-1], "the backward pass exchanges nothing"
        calls.clear()
    for name, function in originals.items():
        setattr(dist, name, function)
    return counts


def everything(rank, world_size):
    found = {name: one_step(name, rank, world_size) for name in BATCHES}
    found["some steps"] = some_steps(rank, world_size)
    found["accumulated"] = accumulated(rank, world_size)
    found["recalibrated"] = recalibrated(rank, world_size)
    return found


def _worker(rank, folder):
    torch.set_num_threads(1)
    for world_size in (2, 3):
        if rank >= world_size:
            continue
        store = f"file://{folder}/store-{world_size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        found = everything(rank, world_size) | {"collectives": collectives_forward(rank, world_size)}
        torch.save(found, folder / f"{rank}-of-{world_size}.pt")
        leave_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_worker, (folder,), nprocs=3)
    return folder


@pytest.fixture(params=[2, 3], ids=["2 processes", "3 processes"])
def several(request, folder):
    return [torch.load(folder / f"{rank}-of-{request.param}.pt", weights_only=False) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone():
    return everything(0, 1)


def test_batches_are_what_they_are_called():
    model, objective = make_model(), QuasibinaryLoss()
    for name in BATCHES:
        batch = make_batch(name)
        totals = objective.observe(model.net(batch["inputs"])["logits"], batch["target"])
        assert (totals.above_one > 0) == (name == "some q above 1"), name
        assert (totals.labels == 0) == (name == "no label at all"), name
        assert totals.rows == {"indices": 6, "nothing known in the last process": 5}.get(name, 7), name


@pytest.mark.parametrize("name", BATCHES)
def test_loss_gradient_and_normaliser_are_those_of_one_process(alone, several, name):
    expected = alone[name]
    mean_loss = torch.stack([found[name]["loss"] for found in several]).mean(0)
    torch.testing.assert_close(mean_loss, expected["loss"], rtol=1e-12, atol=1e-14)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected["gradients"])
    for found in several:
        torch.testing.assert_close(found[name]["gradients"], expected["gradients"], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found[name]["buffers"], expected["buffers"], rtol=1e-13, atol=0)


def test_training_takes_the_same_steps(alone, several):
    for found in several:
        torch.testing.assert_close(found["some steps"], alone["some steps"], rtol=1e-9, atol=1e-12)
        assert all(torch.equal(value, several[0]["some steps"][key]) for key, value in found["some steps"].items())


def test_accumulated_gradients_are_those_of_one_process(alone, several):
    for found in several:
        torch.testing.assert_close(found["accumulated"], alone["accumulated"], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(
        alone["accumulated"]["gradients"], alone["some q above 1"]["gradients"], rtol=1e-10, atol=1e-13
    )


def test_recalibration_takes_the_data_of_all_processes(alone, several):
    for found in several:
        torch.testing.assert_close(found["recalibrated"], alone["recalibrated"], rtol=1e-13, atol=0)


def test_two_small_exchanges_at_most(several):
    for found in several:
        assert found["collectives"] == [1, 2]
