import pytest
import torch

from catchment import CrossEntropy, DrainageLoss, Objective, create_objective, list_objectives, methods, preset
from catchment.objective import Method


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
