import json
import re
from pathlib import Path

import pytest
import torch
from tiny_objectives import Net, make_dataset

import catchment as ct
from catchment import CrossEntropy, DrainageLoss, Objective, create_objective, list_objectives, methods, preset
from catchment.cli import main
from catchment.objective import Method
from catchment.training import TrainingConfig, train


class NeedsClasses(Objective):
    def __init__(self, num_classes, *, gain=1.0):
        super().__init__()
        self.num_classes = num_classes
        self.gain = gain


@pytest.fixture
def _one_more_method(monkeypatch):
    record = Method("needs-classes", NeedsClasses, "Paper", 2020, "https://example.org", "0", "a test")
    monkeypatch.setitem(methods._METHODS, record.name, record)


def test_creates_by_name_with_parameters():
    objective = create_objective("drainage", num_classes=10, alpha=0.1, beta=3.0, constant=1.0)
    assert type(objective) is DrainageLoss
    assert (objective.alpha, objective.beta, objective.constant) == (0.1, 3.0, 1.0)
    assert objective.make_head(4, 10)(torch.zeros(1, 4)).shape == (1, 11)
    weight = torch.tensor([1.0, 2.0])
    assert torch.equal(create_objective("cross-entropy", num_classes=2, weight=weight).weight, weight)


@pytest.mark.usefixtures("_one_more_method")
def test_num_classes_goes_where_it_is_wanted():
    objective = create_objective("needs-classes", num_classes=7, gain=2.0)
    assert (objective.num_classes, objective.gain) == (7, 2.0)
    assert not hasattr(create_objective("drainage", num_classes=7), "num_classes")
    with pytest.raises(ValueError, match=r"no parameter 'gian': it knows gain$"):  # num_classes is not for the caller
        create_objective("needs-classes", num_classes=7, gian=2.0)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("drainag", {}, "no objective 'drainag': did you mean 'drainage'"),
        ("cross_entropy", {}, "did you mean 'cross-entropy'"),
        ("zzz", {}, r"no objective 'zzz': choose one of .*cross-entropy, .*drainage"),
        ("drainage", {"alhpa": 1.0}, "drainage has no parameter 'alhpa': it knows alpha, beta, constant, weight"),
        ("drainage", {"alpha": -1.0}, "alpha is -1.0: give a finite number above 0"),
        ("drainage", {"alpha": "much"}, "drainage can't be made with {'alpha': 'much'}"),
        ("cross-entropy", {"reduction": "avg"}, "reduction is 'avg'"),
        ("cross-entropy", {"weight": [1.0, 2.0]}, "cross-entropy can't be made with"),
    ],
)
def test_says_what_is_wrong(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        create_objective(name, num_classes=3, **parameters)


@pytest.mark.usefixtures("_one_more_method")
def test_lists_every_method_once_by_name():
    names = [method.name for method in list_objectives()]
    assert names == sorted(set(names))
    assert {"cross-entropy", "drainage", "needs-classes"} <= set(names)


@pytest.mark.parametrize("method", list_objectives(), ids=lambda method: method.name)
def test_records_are_complete(method):
    assert issubclass(method.cls, Objective)
    assert method.url.startswith("https://")
    assert method.paper
    assert method.formula
    assert method.purpose
    for published in method.presets.values():
        assert set(published) == {"objective", "training"}
        assert isinstance(create_objective(method.name, num_classes=10, **published["objective"]), method.cls)


# data set: alpha, L1, learning rate, weight decay, epochs, batch size
PUBLISHED = {
    "mnist": (1.0, 1e-3, 0.01, 0.0, 50, 128),
    "cifar10": (1.0, 2e-4, 0.01, 0.0, 120, 128),
    "cifar100": (0.1, 1e-4, 0.01, 0.0, 200, 128),
    "webvision": (0.1, 1e-5, 0.4, 0.0, 250, 512),
    "clothing1m": (0.01, 0.0, 1e-4, 1e-3, 15, 32),
}
STEPS = {"webvision": (1, 0.97), "clothing1m": (10, 0.1)}


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_settings_of_drainage(dataset):
    settings = preset("drainage", dataset)
    training = settings["training"]
    keys = ("l1", "learning_rate", "weight_decay", "epochs", "batch_size")
    assert settings["objective"] == {"alpha": PUBLISHED[dataset][0]}
    assert tuple(training[key] for key in keys) == PUBLISHED[dataset][1:]
    assert (training["optimizer"], training["momentum"], training["clip_norm"]) == ("sgd", 0.9, 5.0)
    assert training.get("nesterov", False) == (dataset == "webvision")
    if dataset in STEPS:
        assert training["schedule"] == "step"
        assert (training["step_size"], training["step_factor"]) == STEPS[dataset]
    else:
        assert training["schedule"] == "cosine"
    objective = create_objective("drainage", num_classes=10, **settings["objective"])
    assert objective.beta == pytest.approx(1 / PUBLISHED[dataset][0])


# method: data set: objective, L1, weight decay
DETACHED = {"gamma": 0.5, "detach_factor": True}
BASELINES = {
    "focal": {"mnist": (DETACHED, 0, 1e-3), "cifar10": (DETACHED, 0, 1e-4), "cifar100": (DETACHED, 0, 1e-5)},
    "mae": {"cifar10": ({}, 0, 1e-4), "cifar100": ({}, 0, 1e-5)},
    "gce": {
        "mnist": ({"q": 0.7}, 0, 1e-3), "cifar10": ({"q": 0.7}, 1e-4, 0), "cifar100": ({"q": 0.7}, 1e-5, 0),
        "webvision": ({"q": 0.7}, 0, 3e-5),
    },
    "sce": {
        "mnist": ({"alpha": 0.01, "beta": 1}, 0, 1e-3), "cifar10": ({"alpha": 0.1, "beta": 1}, 1e-4, 0),
        "cifar100": ({"alpha": 6, "beta": 0.1}, 1e-5, 0), "webvision": ({"alpha": 10, "beta": 1}, 0, 3e-5),
        "clothing1m": ({"alpha": 5, "beta": 1}, 0, 1e-3),
    },
    "nce-mae": {
        "mnist": ({"alpha": 1, "beta": 10}, 0, 1e-3), "cifar10": ({"alpha": 1, "beta": 1}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.1}, 0, 1e-5),
    },
    "nce-rce": {
        "mnist": ({"alpha": 1, "beta": 10}, 0, 1e-3), "cifar10": ({"alpha": 1, "beta": 1}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.1}, 0, 1e-5), "webvision": ({"alpha": 50, "beta": 0.1}, 0, 3e-5),
        "clothing1m": ({"alpha": 50, "beta": 0.1}, 0, 1e-3),
    },
    "nfl-rce": {
        "mnist": ({"alpha": 1, "beta": 10, **DETACHED}, 0, 1e-3),
        "cifar10": ({"alpha": 1, "beta": 1, **DETACHED}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.1, **DETACHED}, 0, 1e-5),
    },
    "nce-agce": {
        "mnist": ({"alpha": 0, "beta": 1, "a": 4, "q": 0.2}, 0, 1e-3),
        "cifar10": ({"alpha": 1, "beta": 4, "a": 6, "q": 1.5}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.1, "a": 1.8, "q": 3}, 0, 1e-5),
        "webvision": ({"alpha": 50, "beta": 0.1, "a": 2.5, "q": 3}, 0, 3e-5),
        "clothing1m": ({"alpha": 50, "beta": 0.1, "a": 2.5, "q": 3}, 0, 1e-3),
    },
    "nce-aul": {
        "mnist": ({"alpha": 0, "beta": 1, "a": 3, "q": 0.1}, 0, 1e-3),
        "cifar10": ({"alpha": 1, "beta": 4, "a": 6.3, "q": 1.5}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.015, "a": 6, "q": 3}, 0, 1e-5),
    },
    "nce-ael": {
        "mnist": ({"alpha": 0, "beta": 1, "a": 3.5}, 0, 1e-3), "cifar10": ({"alpha": 1, "beta": 4, "a": 5}, 0, 1e-4),
        "cifar100": ({"alpha": 10, "beta": 0.1, "a": 1.5}, 0, 1e-5),
    },
    "anl-ce": {
        "mnist": ({"alpha": 1, "beta": 1}, 1e-6, 0), "cifar10": ({"alpha": 5, "beta": 5}, 5e-5, 0),
        "cifar100": ({"alpha": 10, "beta": 1}, 5e-7, 0), "webvision": ({"alpha": 20, "beta": 1}, 5e-6, 0),
    },
    "anl-fl": {
        "mnist": ({"alpha": 1, "beta": 1, **DETACHED}, 1e-6, 0),
        "cifar10": ({"alpha": 5, "beta": 5, **DETACHED}, 5e-5, 0),
        "cifar100": ({"alpha": 10, "beta": 1, **DETACHED}, 5e-7, 0),
    },
    "anl-ce-er": {
        "cifar10": ({"alpha": 5, "beta": 5, "lamb": 2}, 5e-5, 0),
        "cifar100": ({"alpha": 10, "beta": 1, "lamb": 0.01}, 5e-7, 0),
    },
}  # fmt: skip
# data set: learning rate, schedule, step and its factor, epochs, batch size
SCHEDULES = {
    "mnist": (0.01, "cosine", None, None, 50, 128),
    "cifar10": (0.01, "cosine", None, None, 120, 128),
    "cifar100": (0.1, "cosine", None, None, 200, 128),
    "webvision": (0.4, "step", 1, 0.97, 250, 512),
    "clothing1m": (1e-3, "step", 10, 0.1, 15, 32),
}


@pytest.mark.parametrize("name", BASELINES)
def test_published_settings_of_the_baselines(name):
    assert {method.name: {*method.presets} for method in list_objectives()}[name] == set(BASELINES[name])
    for dataset, (objective, l1, weight_decay) in BASELINES[name].items():
        settings = preset(name, dataset)
        training = settings["training"]
        assert settings["objective"] == objective
        assert (training["l1"], training["weight_decay"]) == (l1, weight_decay)
        keys = ("learning_rate", "schedule", "step_size", "step_factor", "epochs", "batch_size")
        assert tuple(training.get(key) for key in keys) == SCHEDULES[dataset]
        assert (training["optimizer"], training["momentum"], training["clip_norm"]) == ("sgd", 0.9, 5.0)
        assert training.get("nesterov", False) == (dataset == "webvision")


def test_published_settings_of_elr_and_ldam():
    assert preset("elr", "cifar10")["objective"] == {"beta": 0.7, "lamb": 3.0}
    assert preset("elr", "cifar100")["objective"] == {"beta": 0.9, "lamb": 7.0}
    for dataset, epochs in (("cifar10", 120), ("cifar100", 150)):
        training = preset("elr", dataset)["training"]
        assert (training["learning_rate"], training["weight_decay"], training["epochs"]) == (0.02, 1e-3, epochs)
    for dataset in ("cifar10", "cifar100"):
        settings = preset("ldam", dataset)
        training = settings["training"]
        assert settings["objective"] == {"max_margin": 0.5, "scale": 30.0, "beta": 0.9999}
        assert (training["learning_rate"], training["weight_decay"], training["epochs"]) == (0.1, 2e-4, 200)
        assert create_objective("ldam", num_classes=10).reweight_from * training["epochs"] == 160


def test_published_settings_of_cross_entropy():
    expected = {
        "cifar10": (1e-4, 0.01, 0.0, 120),
        "cifar100": (1e-5, 0.1, 0.0, 200),
        "webvision": (0.0, 0.4, 3e-5, 250),
    }
    for dataset, numbers in expected.items():
        training = preset("cross-entropy", dataset)["training"]
        assert tuple(training[key] for key in ("l1", "learning_rate", "weight_decay", "epochs")) == numbers
    assert isinstance(create_objective("cross-entropy", num_classes=10), CrossEntropy)


def test_a_preset_is_a_copy():
    first = preset("drainage", "cifar10")
    first["objective"]["alpha"] = 99.0
    first["training"]["epochs"] = 1
    first["training"].pop("l1")
    assert preset("drainage", "cifar10")["objective"] == {"alpha": 1.0}
    assert preset("drainage", "cifar10")["training"]["epochs"] == 120
    assert preset("drainage", "mnist")["training"]["l1"] == 1e-3


def test_unknown_presets():
    with pytest.raises(
        ValueError, match=r"no settings of drainage are published for 'imagenet': known are mnist, cifar10"
    ):
        preset("drainage", "imagenet")
    with pytest.raises(ValueError, match="did you mean 'drainage'"):
        preset("drianage", "cifar10")


@pytest.mark.usefixtures("_one_more_method")
def test_method_without_published_settings_says_so():
    with pytest.raises(ValueError, match=r"for 'cifar10': known are none$"):
        preset("needs-classes", "cifar10")


FEATURES_ALONE = {"watershed", "triplet"}  # train no classifier


@pytest.mark.parametrize(
    "method", [m for m in list_objectives() if m.name not in FEATURES_ALONE], ids=lambda method: method.name
)
def test_every_method_trains_and_is_loaded_again(method):
    dataset = make_dataset()

    def make():
        torch.manual_seed(0)
        objective = create_objective(method.name, num_classes=3)
        return ct.Model(_net(objective), objective)

    model = make()
    config = TrainingConfig(epochs=60, learning_rate=0.3, batch_size=40, device="cpu")
    of_others = 3.0 * torch.eye(3)[torch.from_numpy(dataset.labels)]
    columns = {name: of_others for name in model.objective.needs if name.endswith("_logits")}
    result = train(model, dataset, config, columns=columns)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < losses[0]
    loaded = make()
    loaded.objective.setup(num_samples=len(dataset), class_counts=torch.tensor([14, 13, 13]))
    loaded.load_inference_state(model.inference_state())
    x = torch.from_numpy(dataset.inputs)
    logits = [m.net(x)["logits"] for m in (model, loaded)]
    probabilities = [m.objective.probabilities(z) for m, z in zip((model, loaded), logits, strict=True)]
    torch.testing.assert_close(*probabilities, rtol=0, atol=0)
    accuracy = (probabilities[0].argmax(1) == torch.from_numpy(dataset.labels)).float().mean()
    assert accuracy > 0.8  # well apart: any method learns them


def _net(objective):
    net = Net(objective)
    net.head = objective.make_head(6, 3)
    return net


def test_the_command_lists_name_paper_year_formula_and_purpose(capsys):
    assert main(["list", "objectives", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["objectives"]
    for row, method in zip(rows, list_objectives(), strict=True):
        shown = [row[key] for key in ("name", "paper", "year", "formula", "for", "presets")]
        assert shown == [
            method.name, method.paper, method.year, method.formula, method.purpose, [*method.presets],
        ]  # fmt: skip
    assert main(["list", "objectives"]) == 0
    table = capsys.readouterr().out
    for word in ("nce-agce", "2021", "(1 - p_y^q) / q", "Zhang, Sabuncu", "rare classes"):
        assert word in table


PAGES = {"noisy_labels": "noisy-label-losses.md", "long_tail": "long-tail-losses.md", "unknowns": "unknown-classes.md"}


@pytest.mark.parametrize("module", PAGES)
def test_the_documentation_has_a_row_for_each_record(module):
    page = (Path(__file__).parents[1] / "docs" / PAGES[module]).read_text()
    rows = re.findall(
        r"^\| `([\w-]+)` \| `(\w+)` \| `(.*?)` \| (.*?) \| \[.*?, (\d{4})\]\((.*?)\) \|$", page, re.MULTILINE
    )
    records = [
        (m.name, m.cls.__name__, m.formula, m.purpose, str(m.year), m.url)
        for m in list_objectives()
        if m.cls.__module__ == f"catchment.baselines.{module}"
    ]
    assert sorted(rows) == records
    assert len(records) >= 2
