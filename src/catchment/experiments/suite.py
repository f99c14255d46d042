"""A suite: methods x disturbances x seeds under one stated protocol, as a TOML file that people read."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from catchment.data import KNOWN, is_known
from catchment.disturb import MAPPINGS
from catchment.experiments.noise import KINDS
from catchment.experiments.run import RunConfig
from catchment.methods import create_objective
from catchment.nearest import did_you_mean
from catchment.nets import NETS
from catchment.nets.activations import ACTIVATIONS
from catchment.objective import MissingExtraError
from catchment.report.shift import key as shift_key
from catchment.training.config import TrainingConfig

FOLDER = resources.files("catchment.experiments") / "suites"
BUDGETS = ("paper", "quick")
AUXILIARY_ROLES = ("noise_robust", "imbalance_robust")
RUN_OF = "run:"  # before the key of a run of the same suite
QUICK_SAMPLES, QUICK_EPOCHS, QUICK_SHIFT_SAMPLES = 12_000, 10, 400
_MACHINE = ("device", "threads", "workers")  # settings of where a run runs, not of what comes out
TUNING_SHARE, TUNING_SEED = 0.2, 42

# annotation of a value in a table of the file -> what it must be, and in words
_VALUES: dict[str, tuple[Any, str]] = {
    "str": (str, "text in quotes"),
    "float": (int | float, "a number"),
    "bool": (bool, "true or false"),
}
_IN_WORDS: dict[Any, str] = {
    bool: "true or false", str: "text in quotes", list: "a list", int: "a whole number", float: "a number",
}  # fmt: skip
# keys that a run's settings have too -> what they must be
_RUN_KEYS: dict[str, type[Any]] = {
    "test": str,
    "label_column": str,
    "drop_columns": list,
    "image_size": int,
    "validation": float,
    "validation_labels": str,
    "validation_seed": int,
    "activation": str,
    "auxiliary_view": str,
    "last_epochs": int,
    "also_test": list,
    "imbalance": str,
    "unknowns": str,
    "task": str,
    "top_k": int,
    "corruptions": str,
    "severities": list,
    "corruption_size": str,
    "shift_samples": int,
}
_KEYS = (
    *("name", "title", "about", "data", "net", "seeds", "training", "metrics", "disturbances", "methods"),
    *("settings", "tuning", "published", *_RUN_KEYS),
)
_SEVERITIES = re.compile(r"(_[0-9])+$")  # at the end of a key of a number under shift
# training settings that are no part of a suite -> where they are said
_ELSEWHERE = {"seed": "seeds are given at the top of the file", "device": "the device is given to the command"}
_LOWER_IS_BETTER = (
    *("nll", "brier", "ece", "ece_marginal", "ece_at_k", "aurc", "fpr_at_95_tpr"),
    *("hamming_loss", "mean_max_confidence", "share_above_one", "drop"),
)


@dataclass(frozen=True)
class Metric:
    """A column of the table: a key of ``metrics.json``, what it is called, and whether it is shown in percent."""

    key: str
    title: str
    percent: bool = False

    @property
    def lower_is_better(self) -> bool:
        """Whether it counts errors: of all other metrics, more is better."""
        return _SEVERITIES.sub("", self.key).endswith(_LOWER_IS_BETTER)

    def of(self, numbers: Mapping[str, Any], adaptation: str = "none") -> float | None:
        """Its value among a run's numbers, as the table shows it; a tuning run has it of the validation part.

        Numbers under shift are those with that adaptation.
        """
        on_validation = numbers.get("judged_on") == "validation"
        key = self.key.replace("test_", "validation_", 1) if on_validation else self.key
        if key.startswith("shift_"):
            key = shift_key(adaptation, key.removeprefix("shift_"))
        value = numbers.get(key)
        return None if value is None else 100 * float(value) if self.percent else float(value)


@dataclass(frozen=True)
class Disturbance:
    """What is done to the data: a name, and what else the options of those names take.

    ``data`` and ``test`` stand in for the suite's: labels that people gave, or another test set.
    """

    name: str
    noise: str | None = None
    mapping: str | None = None
    imbalance: str | None = None
    outside: str | None = None
    unknowns: str | None = None
    data: str | None = None
    test: str | None = None

    @property
    def rate(self) -> float | None:
        """The rate asked for; 0 without noise, None where the noise has no rate."""
        if self.noise is None:
            return 0.0
        kind, _, argument = self.noise.partition(":")
        try:
            return float(argument) if _takes_rate(kind) else None
        except ValueError:
            return None


@dataclass(frozen=True)
class SuiteMethod:
    """A row of the table: an objective with its parameters, and its own net and activation where it has them.

    ``noise_robust`` and ``imbalance_robust`` name methods further up, whose runs of the same seed, disturbance and
    setting are the auxiliary models of D-SINK. ``calibrate`` fits a softmax's temperature or a quasibinary C on the
    validation part, as the setting of a run does. ``adaptation`` says which numbers under shift the row shows: methods
    that differ in it alone are readings of one run.
    """

    name: str
    objective: str
    parameters: Mapping[str, Any]
    net: str | None = None
    activation: str | None = None
    noise_robust: str | None = None
    imbalance_robust: str | None = None
    calibrate: bool | None = None
    adaptation: str = "none"


@dataclass(frozen=True)
class Setting:
    """Training settings of all methods, and those that differ from method to method."""

    name: str
    about: str
    training: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Published:
    """A published figure, in the unit of its metric, and where it was read."""

    method: str
    disturbance: str
    metric: str
    value: float
    source: str
    setting: str | None = None
    sd: float | None = None


@dataclass(frozen=True)
class Suite:
    """Everything that a suite's file says."""

    name: str
    title: str
    about: str
    data: str
    run: Mapping[str, Any]
    seeds: tuple[int, ...]
    training: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    disturbances: tuple[Disturbance, ...]
    methods: tuple[SuiteMethod, ...]
    settings: tuple[Setting, ...]
    tuning: Mapping[str, tuple[Any, ...]]
    published: tuple[Published, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets that it takes, each once."""
        found = [self.data, self.run.get("test"), *self.run.get("also_test", ())]
        for each in self.disturbances:
            found += [each.data, each.test, each.outside, each.unknowns]
        return tuple(dict.fromkeys(name for name in found if name is not None))

    @property
    def missing(self) -> str | None:
        """What keeps the suite from running here, in a sentence; None if nothing does."""
        for data in self.sources:
            if not is_known(data) and not Path(data).exists():
                hint = did_you_mean(data, sorted(KNOWN), "known are")
                return (
                    f"suite {self.name} needs the data set {data!r}, which is neither known here nor a file or "
                    f"folder: {hint}"
                )
        return None


@dataclass(frozen=True)
class Selection:
    """Which runs of a suite.

    Args:
        seeds: of the runs; None takes the suite's, and only the first of them for tuning.
        budget: "paper", all as the suite says, or "quick", at most 12,000 training samples and 10 epochs.
        settings: by name; none means all.
        only: names of methods and disturbances; none means all.
        tuning: None judges on the test set; "noisy" or "clean" holds out 20 % of the training set (seed 42), with
            such labels, trains every point of the suite's grid on the rest, and leaves the test set alone.
    """

    seeds: tuple[int, ...] | None = None
    budget: str = "paper"
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    tuning: str | None = None


@dataclass(frozen=True)
class BenchRun:
    """One run of a suite: what it is called in the table, and all that decides its result."""

    budget: str
    setting: str
    disturbance: str
    method: str
    variant: str
    seed: int
    config: RunConfig
    adaptation: str = "none"

    @property
    def key(self) -> str:
        """What it is called on disk: see ``key_of``."""
        return key_of(self.config)

    @property
    def auxiliaries(self) -> dict[str, str]:
        """Which of the run's settings are runs that must be finished first, and their keys."""
        found = {role: getattr(self.config, role) for role in AUXILIARY_ROLES}
        return {role: run.removeprefix(RUN_OF) for role, run in found.items() if run and run.startswith(RUN_OF)}

    def describe(self) -> str:
        """In words, for progress and messages."""
        return ", ".join(part for part in (self.setting, self.disturbance, self.method, self.variant) if part) + (
            f", seed {self.seed}"
        )


def key_of(config: RunConfig) -> str:
    """A hash of what decides the result: equal runs, of two settings for example, are done once.

    What has its default value stays out, so that results outlive new settings.
    """
    values, defaults = config.to_dict(), RunConfig().to_dict()
    del values["eval_every"], values["data_dir"]
    training, usual = values.pop("training"), defaults["training"]
    floats = {field.name for field in fields(TrainingConfig) if field.type == "float"}
    decisive: dict[str, Any] = {k: v for k, v in values.items() if v != defaults[k]}
    decisive["training"] = {
        k: float(v) if k in floats else v for k, v in training.items() if k not in _MACHINE and v != usual[k]
    }
    decisive["parameters"] = {k: _plain_number(v) for k, v in values["parameters"].items()}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def list_suites() -> list[str]:
    """The names of the suites that come with catchment."""
    return sorted(Path(entry.name).stem for entry in FOLDER.iterdir() if entry.name.endswith(".toml"))


def find_suite(name: str) -> tuple[str, str]:
    """The text of the suite called ``name``, or of the file there, and its file's name or path.

    Raises:
        ValueError: there is neither.
    """
    if name in list_suites():
        return (FOLDER / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml"
    path = Path(name).expanduser()
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path.absolute())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file ({error}): give a suite's TOML file") from None
    raise ValueError(
        f"there is no suite {name!r}, and no file of that name: {did_you_mean(name, list_suites(), 'suites are')}"
    )


def parse_suite(text: str, where: str) -> Suite:
    """Read a suite's text.

    Args:
        text: TOML, as docs/suites.md describes it.
        where: the file it comes from, for messages; data that is no known name is looked for beside it.

    Raises:
        ValueError: it is no TOML, or has a key, method, data set, setting or noise that is not known; says the nearest.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not TOML ({error}): mend it") from None
    _check_keys(values, _KEYS, required=("name", "data", "metrics", "methods"), where=where)
    run = {"net": _take(values, "net", str, where, "auto")}
    run |= {key: _take(values, key, kind, where) for key, kind in _RUN_KEYS.items() if key in values}
    if "test" in run:
        run["test"] = _data(run["test"], where)
    if "also_test" in run:
        run["also_test"] = [_data(name, where) if isinstance(name, str) else name for name in run["also_test"]]
    suite = Suite(
        name=_take(values, "name", str, where),
        title=_take(values, "title", str, where, values["name"]),
        about=_take(values, "about", str, where, "").strip(),
        data=_data(_take(values, "data", str, where), where),
        run=run,
        seeds=tuple(_take(values, "seeds", list, where, [0, 1, 2])),
        training=_take(values, "training", dict, where, {}),
        metrics=tuple(_records(Metric, values, "metrics", where)),
        disturbances=_disturbances(values, where) or (Disturbance("none"),),
        methods=_methods(values, where),
        settings=_settings(values, where),
        tuning=_tuning(values, where),
        published=tuple(_records(Published, values, "published", where)),
    )
    _check(suite, where)
    return suite


def plan(suite: Suite, selection: Selection) -> list[BenchRun]:
    """The runs of a suite, in the order of its file, seed by seed so that a first mean over methods is there early.

    Raises:
        ValueError: the selection names a budget, setting, method or disturbance that the suite doesn't have.
    """
    if selection.budget not in BUDGETS:
        raise ValueError(f"budget is {selection.budget!r}: choose one of {', '.join(BUDGETS)}")
    if selection.tuning not in (None, "noisy", "clean"):
        raise ValueError(f"tuning is {selection.tuning!r}: choose noisy or clean validation labels")
    _check_names(selection.settings, _names(suite.settings), "setting", suite)
    names = [*_names(suite.methods), *_names(suite.disturbances)]
    _check_names(selection.only, names, "method or disturbance", suite)
    settings = [s for s in suite.settings if not selection.settings or s.name in selection.settings]
    disturbances = _only(suite.disturbances, selection.only)
    methods = _with_auxiliaries(_only(suite.methods, selection.only), suite)
    seeds = selection.seeds or (suite.seeds[:1] if selection.tuning else suite.seeds)
    variants = _grid(suite.tuning) if selection.tuning else [{}]
    return [
        BenchRun(
            budget=selection.budget,
            setting=setting.name,
            disturbance=disturbance.name,
            method=method.name,
            variant=", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in variant.items()),
            seed=seed,
            config=_config(suite, selection, setting, disturbance, method, variant, seed),
            adaptation=method.adaptation,
        )
        for seed, setting, disturbance, method, variant in itertools.product(
            seeds, settings, disturbances, methods, variants
        )
    ]


def parse_seeds(text: str, suite: Suite) -> tuple[int, ...]:
    """The seeds that ``--seeds`` means: how many, or which ones with commas.

    As many: the suite's own first, then the numbers after its largest.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts if part) or not any(parts):
        raise ValueError(f"seeds are {text!r}: give how many (5), or which ones with commas (1,2,3)")
    if len(parts) > 1:
        seeds = tuple(int(part) for part in parts if part)
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds are {text!r}: give each seed once")
        return seeds
    count = int(text)
    if count < 1:
        raise ValueError("seeds are 0: give at least 1")
    return tuple(itertools.islice(itertools.chain(suite.seeds, itertools.count(max(suite.seeds) + 1)), count))


def _config(
    suite: Suite,
    selection: Selection,
    setting: Setting,
    disturbance: Disturbance,
    method: SuiteMethod,
    variant: Mapping[str, Any],
    seed: int,
) -> RunConfig:
    of_method = setting.methods.get(method.name, {})
    training = TrainingConfig.from_dict({**suite.training, **setting.training, **of_method, **variant, "seed": seed})
    own = {key: value for part in (disturbance, method) for key, value in vars(part).items() if value is not None}
    del own["name"], own["adaptation"]
    for role in own.keys() & set(AUXILIARY_ROLES):
        auxiliary = next(each for each in suite.methods if each.name == own[role])
        config = _config(suite, selection, setting, disturbance, auxiliary, variant, seed)
        own[role] = RUN_OF + key_of(config)
    config = RunConfig(
        **{
            "data": suite.data,
            **suite.run,
            **{key: tuple(value) for key, value in suite.run.items() if isinstance(value, list)},
            "adaptations": _readings(suite, setting, method),
            **own,
            "parameters": dict(method.parameters),
        },
        training=training,
    )
    if selection.budget == "quick":
        training = replace(training, epochs=min(training.epochs, QUICK_EPOCHS))
        shown = min(filter(None, (config.shift_samples, QUICK_SHIFT_SAMPLES))) if config.corruptions else 0
        config = replace(config, training=training, max_train_samples=QUICK_SAMPLES, shift_samples=shown)
    if selection.tuning:
        config = replace(
            config,
            validation=TUNING_SHARE,
            validation_seed=TUNING_SEED,
            validation_labels=selection.tuning,
            judged_on="validation",
            calibrate=False,
            corruptions=None,
            corruption_size=None,
            severities=RunConfig.severities,
            adaptations=RunConfig.adaptations,
            shift_samples=0,
        )
    return config


def _readings(suite: Suite, setting: Setting, method: SuiteMethod) -> tuple[str, ...]:
    """The adaptations of all methods that are this one but for that, so that one run serves them all."""
    if "corruptions" not in suite.run:
        return (method.adaptation,)

    def trained_as(each: SuiteMethod) -> dict[str, Any]:
        return {**vars(each), "name": "", "adaptation": "", "training": setting.methods.get(each.name, {})}

    wanted = trained_as(method)
    return tuple(dict.fromkeys(each.adaptation for each in suite.methods if trained_as(each) == wanted))


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _data(name: str, where: str) -> str:
    """A known name as it is, a path as seen from the suite's file; the suites that come along name no paths."""
    beside = Path(where).parent / Path(name).expanduser()
    return str(beside) if not is_known(name) and Path(where).is_absolute() and beside.exists() else name


def _disturbances(values: dict[str, Any], where: str) -> tuple[Disturbance, ...]:
    found = []
    for entry in _records(Disturbance, values, "disturbances", where):
        sources = {key: getattr(entry, key) for key in ("data", "test", "outside", "unknowns")}
        found.append(replace(entry, **{key: _data(name, where) for key, name in sources.items() if name is not None}))
    return tuple(found)


def _methods(values: dict[str, Any], where: str) -> tuple[SuiteMethod, ...]:
    methods: list[SuiteMethod] = []
    for entry in _tables(values, "methods", where):
        at = f"{where}, methods"
        known = [field.name for field in fields(SuiteMethod)]
        _check_keys(entry, known, required=("objective",), where=at)
        name = _take(entry, "name", str, at, entry["objective"])
        parameters = _take(entry, "parameters", dict, at, {})
        _take(entry, "objective", str, at)
        if "name" in parameters or "num_classes" in parameters:
            raise ValueError(f"{at}: parameters are {parameters}: leave name and num_classes out, they are known")
        try:
            create_objective(entry["objective"], num_classes=2, **parameters)
        except MissingExtraError:
            pass  # the suite can be listed and planned; such a run fails and says what to install
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None
        texts = ("net", "activation", "adaptation", *AUXILIARY_ROLES)
        own: dict[str, Any] = {key: _take(entry, key, str, at) for key in texts if key in entry}
        for role in own.keys() & set(AUXILIARY_ROLES):
            if own[role] not in _names(methods):
                above = did_you_mean(own[role], _names(methods), "there are")
                raise ValueError(f"{at}: {role} of {name!r} is {own[role]!r}, which is no method above it: {above}")
        if "calibrate" in entry:
            own["calibrate"] = _take(entry, "calibrate", bool, at)
        methods.append(SuiteMethod(name, entry["objective"], parameters, **own))
    return tuple(methods)


def _settings(values: dict[str, Any], where: str) -> tuple[Setting, ...]:
    settings = []
    for name, entry in _take(values, "settings", dict, where, {"matched": {}}).items():
        at = f"{where}, settings.{name}"
        _check_keys(entry, ("about", "training", "methods"), required=(), where=at)
        parts = {key: _take(entry, key, dict, at, {}) for key in ("training", "methods")}
        settings.append(Setting(name, _take(entry, "about", str, at, "").strip(), **parts))
    return tuple(settings)


def _tuning(values: dict[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    axes = _take(values, "tuning", dict, where, {})
    for name, points in axes.items():
        if not isinstance(points, list) or not points or any(points.count(point) > 1 for point in points):
            raise ValueError(f"{where}, tuning: {name} is {points!r}: give a list of different values to try")
    return {name: tuple(points) for name, points in axes.items()}


def _check(suite: Suite, where: str) -> None:
    """Refuse what would fail only when it is run."""
    if suite.name in ("", "..") or Path(suite.name).name != suite.name:
        raise ValueError(f"{where}: name is {suite.name!r}: give one that a folder can have")
    for key, count in (("metrics", suite.metrics), ("methods", suite.methods), ("settings", suite.settings)):
        if not count:
            raise ValueError(f"{where}: {key} is empty: give at least one")
    for entries, what in (
        (_names(suite.methods), "method"),
        (_names(suite.disturbances), "disturbance"),
        ([metric.key for metric in suite.metrics], "metric"),
    ):
        for name in entries:
            if entries.count(name) > 1:
                raise ValueError(f"{where}: two entries are called {what} {name!r}: give each its own name")
    shared = set(_names(suite.methods)) & set(_names(suite.disturbances))
    if shared:
        raise ValueError(f"{where}: {min(shared)!r} is both a method and a disturbance: rename one, --only needs that")
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in suite.seeds)
    if not suite.seeds or not whole or len(set(suite.seeds)) < len(suite.seeds):
        raise ValueError(f"{where}: seeds are {list(suite.seeds)}: give different whole numbers of at least 0")
    for key in ("drop_columns", "also_test"):
        for name in suite.run.get(key, ()):
            if not isinstance(name, str):
                raise ValueError(f"{where}: {key} has {name!r}: give names in quotes")
    if suite.run.get("image_size", 1) < 1:
        raise ValueError(f"{where}: image_size is {suite.run['image_size']}: give a number of pixels, 1 or more")
    for net in (suite.run["net"], *(method.net for method in suite.methods)):
        if net is not None and net not in NETS and net.partition("/")[0] not in ("timm", "torchvision"):
            raise ValueError(f"{where}: there is no net {net!r}: {did_you_mean(net, NETS, 'nets are')}")
    for activation in (suite.run.get("activation"), *(method.activation for method in suite.methods)):
        if activation is not None and activation not in ACTIVATIONS:
            known_ones = did_you_mean(activation, ACTIVATIONS, "choose one of")
            raise ValueError(f"{where}: there is no activation {activation!r}: {known_ones}")
    for disturbance in suite.disturbances:
        _check_disturbance(disturbance, f"{where}, disturbances")
    _check_training(suite.training, f"{where}, training")
    _check_training(suite.tuning, f"{where}, tuning")
    for setting in suite.settings:
        at = f"{where}, settings.{setting.name}"
        _check_training(setting.training, f"{at}.training")
        _check_keys(setting.methods, _names(suite.methods), required=(), where=f"{at}.methods")
        for method, training in setting.methods.items():
            _check_training(training, f"{at}.methods.{method}")
    for figure in suite.published:
        at = f"{where}, published"
        for name, known in (
            (figure.method, _names(suite.methods)),
            (figure.disturbance, _names(suite.disturbances)),
            (figure.metric, [metric.key for metric in suite.metrics]),
            (figure.setting or suite.settings[0].name, _names(suite.settings)),
        ):
            if name not in known:
                raise ValueError(f"{at}: {name!r} is not in this suite: {did_you_mean(name, known, 'it has')}")
    figures = [(f.method, f.disturbance, f.metric, f.setting) for f in suite.published]
    for of_what in figures:
        if figures.count(of_what) > 1:
            raise ValueError(f"{where}, published: two figures are of {of_what[:3]}: keep one")
    try:
        runs = [run for tuning in (None, "noisy") for run in plan(suite, Selection(tuning=tuning))]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if any(run.config.training.early_stopping and not run.config.validation for run in runs):
        raise ValueError(f"{where}: early_stopping needs a validation part: add validation = 0.1 at the top")


def _check_disturbance(disturbance: Disturbance, at: str) -> None:
    """What can be known of noise without the data; classes and counts are left to the run."""
    noise, mapping = disturbance.noise, disturbance.mapping
    if noise is not None:
        kind = noise.partition(":")[0]
        if kind not in KINDS:
            raise ValueError(f"{at}: there is no noise {noise!r}: {did_you_mean(kind, KINDS, 'kinds are')}")
        if _takes_rate(kind) and not (disturbance.rate is not None and 0 <= disturbance.rate <= 1):
            raise ValueError(f"{at}: noise is {noise!r}: give a rate from 0 to 1, {kind}:0.4")
    if (noise is not None and noise.partition(":")[0] == "open-set") != (disturbance.outside is not None):
        raise ValueError(f"{at}: {disturbance.name!r}: open-set noise and outside go together: give both or neither")
    if mapping is not None and (noise is None or noise.partition(":")[0] != "asymmetric"):
        raise ValueError(f"{at}: {disturbance.name!r} has a mapping, which goes with asymmetric noise: leave it out")
    if mapping is not None and ":" not in mapping and mapping not in MAPPINGS:
        raise ValueError(f"{at}: there is no mapping {mapping!r}: {did_you_mean(mapping, MAPPINGS, 'mappings are')}")


def _check_training(values: Mapping[str, Any], at: str) -> None:
    """Names of training settings; their values are checked where a run is planned."""
    known = [field.name for field in fields(TrainingConfig) if field.name not in _ELSEWHERE]
    if isinstance(values, dict):
        for key in values.keys() & _ELSEWHERE.keys():
            raise ValueError(f"{at}: {key} is not of a suite: leave it out, {_ELSEWHERE[key]}")
    _check_keys(values, known, required=(), where=at)
    augmentation = values.get("augmentation", [])
    # as a point of a tuning grid it may itself be one of several, each a list
    for steps in augmentation if isinstance(augmentation, tuple) else (augmentation,):
        if not isinstance(steps, list):
            raise ValueError(f'{at}: augmentation is {steps!r}: give a list of steps, ["crop:4", "flip"]')


def _records(cls: type[Any], values: Mapping[str, Any], key: str, where: str) -> Iterable[Any]:
    for entry in _tables(values, key, where):
        at = f"{where}, {key}"
        names = [field.name for field in fields(cls)]
        required = [field.name for field in fields(cls) if field.default is MISSING]
        _check_keys(entry, names, required=required, where=at)
        for field in fields(cls):
            kind = str(field.type).removesuffix(" | None")
            if field.name in entry and not _is_of(entry[field.name], _VALUES[kind][0]):
                raise ValueError(f"{at}: {field.name} is {entry[field.name]!r}: give {_VALUES[kind][1]}")
        yield cls(**entry)


def _tables(values: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = _take(values, key, list, where, [])
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: {key} is not a list of tables: write [[{key}]] above each")
    return list(entries)


def _take(values: Mapping[str, Any], key: str, kind: type[Any], where: str, default: Any = None) -> Any:
    value = values.get(key, default)
    if not _is_of(value, int | float if kind is float else kind):
        raise ValueError(f"{where}: {key} is {value!r}: give {_IN_WORDS.get(kind, f'a table, [{key}]')}")
    return value


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; true and false are no numbers, and numbers are finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _plain_number(value: Any) -> Any:
    """1 and 1.0 are one number, as they are to the objective."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _takes_rate(kind: str) -> bool:
    return f"{kind}:RATE" in KINDS.get(kind, "")


def _check_keys(values: Mapping[str, Any], known: Collection[str], *, required: Sequence[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}: give a table")
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}: {did_you_mean(key, known, 'keys are')}")
    for key in required:
        if key not in values:
            raise ValueError(f"{where}: {key} is missing: add it")


def _check_names(names: Iterable[str], known: Sequence[str], what: str, suite: Suite) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"suite {suite.name} has no {what} {name!r}: {did_you_mean(name, known, 'it has')}")


def _only(entries: Sequence[Any], only: tuple[str, ...]) -> list[Any]:
    """The entries that are named; all where none of them is."""
    return [entry for entry in entries if entry.name in only] or list(entries)


def _with_auxiliaries(methods: list[SuiteMethod], suite: Suite) -> list[SuiteMethod]:
    """Those methods and the ones they need, in the order of the suite."""
    wanted = {method.name for method in methods}
    for method in reversed(suite.methods):  # a method stands below those it needs
        if method.name in wanted:
            wanted |= {method.noise_robust, method.imbalance_robust} - {None}  # type: ignore[arg-type]
    return [method for method in suite.methods if method.name in wanted]


def _names(entries: Iterable[Any]) -> list[str]:
    return [entry.name for entry in entries]
