"""Suites: what their files may hold, what is refused and how, and which runs they mean."""

import itertools
import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite_rows import TEXT, failed, finished, make_suite

import catchment as ct
from catchment.experiments.bench import open_folder, run_all
from catchment.experiments.bench_report import write_bench_report
from catchment.experiments.noise import KINDS
from catchment.experiments.results_table import collect, to_records
from catchment.experiments.run import RunConfig
from catchment.experiments.suite import (
    _KEYS,
    BenchRun,
    Disturbance,
    Metric,
    Selection,
    find_suite,
    list_suites,
    parse_seeds,
    parse_suite,
    plan,
)
from catchment.files import read_jsonl
from catchment.nets import NETS
from catchment.training import TrainingConfig

SUITES = list_suites()
ELSEWHERE = ("seed", "device")
SETTINGS = TEXT[TEXT.index("[settings.matched]") : TEXT.index("[tuning]")]
SMALLEST = """
name = "smallest"
data = "digits"
metrics = [{ key = "test_accuracy", title = "accuracy" }]
methods = [{ objective = "drainage" }]
"""


def key(**settings):
    training = settings.pop("training", {})
    config = RunConfig(training=TrainingConfig(**training), **settings)
    return BenchRun("paper", "matched", "none", "drainage", "", 0, config).key


# The suites that come along


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_that_comes_along_says_all_that_its_runs_need(name):
    suite = parse_suite(*find_suite(name))
    assert suite.name == name
    assert suite.run["net"] in NETS or suite.run["net"].startswith(("timm/", "torchvision/"))
    assert suite.title
    assert suite.about
    for method in suite.methods:
        ct.create_objective(method.objective, num_classes=10, **method.parameters)
    for disturbance in suite.disturbances:
        assert disturbance.noise is None or disturbance.noise.partition(":")[0] in KINDS
    known = {"matched", "published", "plain", "mixup", "cutmix", "augmix"}
    assert {setting.name for setting in suite.settings} <= known
    runs = plan(suite, Selection())
    assert len(runs) == (len(suite.methods) * len(suite.disturbances) * len(suite.seeds) * len(suite.settings))
    assert len({run.describe() for run in runs}) == len(runs)
    for (first_key, first), (second_key, second) in itertools.combinations(
        [(run.key, run.config) for run in runs if run.seed == suite.seeds[0]], 2
    ):
        assert (first_key == second_key) == (first == second)


def test_the_suites_that_come_along_are_there():
    assert {"digits-asymmetric", "digits-openset", "digits-relabelled", "mnist-asymmetric", "mnist-789"} <= set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_matched_settings_are_the_same_for_every_method(name):
    suite = parse_suite(*find_suite(name))
    for setting in {setting.name for setting in suite.settings} - {"published"}:
        runs = plan(suite, Selection(settings=(setting,), seeds=(0,)))
        assert all(run.config.training == runs[0].config.training for run in runs)


@pytest.mark.parametrize("name", ["mnist-asymmetric", "mnist-789"])
def test_mnist_suites_train_drainage_as_its_preset_says(name):
    expected = ct.preset("drainage", "mnist")
    runs = plan(parse_suite(*find_suite(name)), Selection(seeds=(0,), only=("drainage, alpha 1",)))
    assert {run.setting for run in runs} == {"matched", "published"}
    for run in runs:
        training = run.config.training.to_dict()
        assert {setting: training[setting] for setting in expected["training"]} == expected["training"]
        assert run.config.parameters == expected["objective"]


def test_a_run_that_two_settings_share_is_one_run():
    runs = plan(parse_suite(*find_suite("mnist-asymmetric")), Selection(seeds=(0,), only=("asymmetric 0.2",)))
    keys = {(run.setting, run.method): run.key for run in runs}
    assert keys["matched", "drainage, alpha 1"] == keys["published", "drainage, alpha 1"]
    assert keys["matched", "cross-entropy"] != keys["published", "cross-entropy"]
    assert len(set(keys.values())) == 2 * 7 - 1


# Keys


def test_a_key_is_the_same_in_every_process():
    """Finished runs are found by it: if this changes, everyone's are done again."""
    (run,) = plan(parse_suite(SMALLEST, "smallest.toml"), Selection(seeds=(7,)))
    assert run.key == "05667dbb790e4aa0"


def test_what_keys_leave_out_stays_what_it_is():
    """A default that changed would give old results to new runs; a new setting must have what was done without it."""
    values = RunConfig().to_dict()
    training = values.pop("training")
    kept = {"data": "digits", "noise": None, "imbalance": None, "unknowns": None, "net": "auto", "validation": 0.0}
    kept |= {"max_train_samples": 0, "validation_labels": "noisy", "judged_on": "test", "objective": "drainage"}
    assert {name: values[name] for name in kept} == kept
    kept = {"epochs": 30, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "l1": 0.0}
    kept |= {"nesterov": False, "weight_decay": 0.0, "schedule": "cosine", "step_size": 10, "step_factor": 0.1}
    kept |= {"clip_norm": 5.0, "early_stopping": 0, "augmentation": None, "bf16": False, "seed": 0}
    assert {name: training[name] for name in kept} == kept


def test_a_key_leaves_out_what_does_not_change_the_result():
    assert key() == key(eval_every=3) == key(training={"device": "cuda"}) == key(training={"threads": 4})
    assert key() == key(training={"workers": 2}) == key(data_dir="elsewhere")


def test_numbers_that_are_equal_make_equal_keys():
    """TOML tells 1 from 1.0, and the run does not."""
    assert key(training={"learning_rate": 1, "l1": 0}) == key(training={"learning_rate": 1.0, "l1": 0.0})
    assert key(parameters={"alpha": 1}) == key(parameters={"alpha": 1.0}) != key(parameters={"alpha": 2})
    assert key(validation=0) == key()


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.sampled_from(["digits", "other.npz"]),
        "test": st.sampled_from([None, "test.npz"]),
        "drop_columns": st.sampled_from([(), ("id",)]),
        "image_size": st.sampled_from([None, 8, 16]),
        "noise": st.sampled_from([None, "symmetric:0.2", "symmetric:0.4"]),
        "mapping": st.sampled_from([None, "mnist"]),
        "objective": st.sampled_from(["drainage", "cross-entropy"]),
        "parameters": st.sampled_from([{}, {"alpha": 1.0}, {"alpha": 0.1}]),
        "net": st.sampled_from(["auto", "mlp"]),
        "max_train_samples": st.sampled_from([0, 100]),
        "validation": st.sampled_from([0.0, 0.2]),
        "validation_labels": st.sampled_from(["noisy", "clean"]),
        "validation_seed": st.sampled_from([None, 0, 42]),
        "eval_every": st.sampled_from([0, 5]),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.sampled_from([30, 31]),
                "batch_size": st.sampled_from([64, 65]),
                "learning_rate": st.sampled_from([0.05, 0.1]),
                "l1": st.sampled_from([0.0, 1e-3]),
                "weight_decay": st.sampled_from([0.0, 1e-3]),
                "nesterov": st.booleans(),
                "schedule": st.sampled_from(["cosine", "step"]),
                "augmentation": st.sampled_from([None, (), ("flip",)]),
                "device": st.sampled_from(["auto", "cpu"]),
                "threads": st.sampled_from([0, 1]),
                "seed": st.sampled_from([0, 1]),
            },
        ),
    },
)


@given(CONFIGS, CONFIGS)
def test_keys_are_equal_exactly_where_results_are(first, second):
    def what_decides(settings):
        training = {k: v for k, v in settings.get("training", {}).items() if k not in ("device", "threads")}
        return RunConfig(**{**settings, "eval_every": 0, "training": TrainingConfig(**training)})

    assert (key(**first) == key(**second)) == (what_decides(first) == what_decides(second))


@pytest.mark.parametrize("field", ["epochs", "batch_size", "learning_rate", "momentum", "l1", "clip_norm", "step_size"])
def test_every_number_of_the_training_changes_the_key(field):
    assert key(training={field: getattr(TrainingConfig(), field) + 1}) != key()


# What is refused


def test_the_smallest_suite_has_what_it_does_not_say():
    suite = parse_suite(SMALLEST, "smallest.toml")
    assert suite.disturbances == (Disturbance("none"),)
    assert suite.title == "smallest"
    assert suite.seeds == (0, 1, 2)
    assert [setting.name for setting in suite.settings] == ["matched"]
    (first, *_) = plan(suite, Selection())
    assert first.config == RunConfig(data="digits", objective="drainage", training=TrainingConfig(seed=0))


BAD = {
    "not TOML": ("seeds = [0, 1, 2]", "seeds = [0", "is not TOML", "mend it"),
    "unknown key": ("[[methods]]", "[[metods]]", "'metods'", "did you mean 'methods'?"),
    "unknown key of a metric": ("percent = true", "precent = true", "'precent'", "did you mean 'percent'?"),
    "unknown key of a setting": (
        "training = { learning_rate = 0.1, l1 = 1e-3 }", "trainin = {}", "settings.matched", "did you mean 'training'?",
    ),
    "unknown key of a method": ("parameters = {", "parametres = {", "methods", "did you mean 'parameters'?"),
    "unknown objective": ('"cross-entropy"', '"cross-entopy"', "'cross-entopy'", "did you mean 'cross-entropy'?"),
    "objective that is no text": ('objective = "cross-entropy"', "objective = 5", "methods", "text in quotes"),
    "named method without a proper objective": (
        'objective = "cross-entropy"', 'objective = 5\nname = "a"', "objective is 5", "text in quotes",
    ),
    "unknown parameter": ("alpha = 0.1", "alpa = 0.1", "'alpa'", "it knows alpha"),
    "bad parameter": ("alpha = 0.1", "alpha = -0.1", "alpha is -0.1", "above 0"),
    "parameter of another kind": ("alpha = 0.1", 'alpha = "x"', "methods", "'x'"),
    "parameter that the data gives": ("alpha = 0.1", "num_classes = 3", "methods", "leave name and num_classes out"),
    "parameter called name": ("alpha = 0.1", 'name = "x"', "methods", "leave name and num_classes out"),
    "parameters that are no table": ("{ alpha = 0.1 }", "[1]", "parameters is [1]", "give a table"),
    "unknown net": ('data = "digits"', 'data = "digits"\nnet = "small-cn"', "'small-cn'", "did you mean 'small-cnn'?"),
    "net that is no text": ('data = "digits"', 'data = "digits"\nnet = 3', "net is 3", "text in quotes"),
    "unknown noise": ("symmetric:0.4", "symetric:0.4", "'symetric:0.4'", "did you mean 'symmetric'?"),
    "empty noise": ("symmetric:0.4", "", "noise ''", "kinds are"),
    "noise without a rate": ("symmetric:0.4", "symmetric", "disturbances", "symmetric:0.4"),
    "noise whose rate is no number": ("symmetric:0.4", "symmetric:x", "'symmetric:x'", "from 0 to 1"),
    "noise rate out of range": ("symmetric:0.4", "symmetric:1.4", "'symmetric:1.4'", "from 0 to 1"),
    "noise rate that is not finite": ("symmetric:0.4", "symmetric:nan", "'symmetric:nan'", "from 0 to 1"),
    "noise that is no text": ('"symmetric:0.4"', "0.4", "noise is 0.4", "text in quotes"),
    "mapping of symmetric noise": (
        'noise = "symmetric:0.4"', 'noise = "symmetric:0.4"\nmapping = "mnist"', "'symmetric 0.4'", "leave it out",
    ),
    "noise that needs a second data set": ("symmetric:0.4", "open-set:0.4", "'symmetric 0.4'", "give both or neither"),
    "unknown activation": ('name = "tiny"', 'name = "tiny"\nactivation = "rely"', "'rely'", "did you mean 'relu'?"),
    "mapping without noise": ('noise = "symmetric:0.4"', 'mapping = "mnist"', "'symmetric 0.4'", "leave it out"),
    "unknown mapping": (
        'noise = "symmetric:0.4"', 'noise = "asymmetric:0.4"\nmapping = "minst"', "'minst'", "did you mean 'mnist'?",
    ),
    "unknown training setting": ("epochs = 20", "epoch = 20", "training", "did you mean 'epochs'?"),
    "unknown training setting of a setting": (
        "learning_rate = 0.1, l1", "learning_rat = 0.1, l1",
        "settings.matched.training", "did you mean 'learning_rate'?",
    ),
    "unknown training setting of a method": (
        "methods.drainage = { l1", "methods.drainage = { ll1",
        "settings.published.methods.drainage", "did you mean 'l1'?",
    ),
    "unknown method in a setting": (
        "methods.drainage", "methods.drainge", "settings.published.methods", "did you mean 'drainage'?",
    ),
    "method of a setting that is no table": (
        "methods.drainage = { l1 = 2e-3, momentum = 0.8 }", "methods.drainage = 3",
        "methods.drainage is 3", "give a table",
    ),
    "setting that is no table": (SETTINGS, "[settings]\nmatched = 3\n", "settings.matched is 3", "give a table"),
    "no setting": (SETTINGS, "[settings]\n", "settings is empty", "at least one"),
    "training value of another kind": ("epochs = 20", 'epochs = "x"', "epochs is 'x'", "a whole number"),
    "training value out of range": ("epochs = 20", "epochs = 0", "epochs is 0", "at least 1"),
    "training value out of range in a setting": ("learning_rate = 0.1, l1", "learning_rate = -1, l1", "-1", "above 0"),
    "training that is no table": ("[training]\nepochs = 20\nbatch_size = 128", "training = 5", "training is 5", "a"),
    "augmentation that is no list": ("epochs = 20", 'augmentation = "flip"', "augmentation is 'flip'", "give a list"),
    "augmentation that is a number": ("epochs = 20", "augmentation = 5", "augmentation is 5", "give a list"),
    "unknown augmentation": ("epochs = 20", 'augmentation = ["flp"]', "'flp'", "use crop:P"),
    "seed among the training settings": ("epochs = 20", "seed = 3", "training: seed", "at the top of the file"),
    "device": ("epochs = 20", 'device = "cuda"', "training: device", "given to the command"),
    "early stopping without validation": ("epochs = 20", "early_stopping = 3", "early_stopping", "validation = 0.1"),
    "unknown training setting to tune": ("l1 = [0.0, 1e-3]", "ll1 = [0.0]", "tuning", "did you mean 'l1'?"),
    "value to tune that is no list": ("l1 = [0.0, 1e-3]", "l1 = 3", "tuning: l1 is 3", "give a list"),
    "text to tune instead of a list": ("l1 = [0.0, 1e-3]", 'schedule = "step"', "'step'", "give a list"),
    "nothing to tune": ("l1 = [0.0, 1e-3]", "l1 = []", "l1 is []", "values to try"),
    "the same point twice": ("l1 = [0.0, 1e-3]", "l1 = [0.0, 0.0]", "tuning: l1", "different values"),
    "value to tune out of range": ("l1 = [0.0, 1e-3]", "l1 = [-1.0]", "l1 is -1.0", "at least 0"),
    "no name": ('name = "tiny"', "", "name is missing", "add it"),
    "name that is no text": ('name = "tiny"', "name = 3", "name is 3", "text in quotes"),
    "empty name": ('name = "tiny"', 'name = ""', "name is ''", "a folder can have"),
    "name that is a path": ('name = "tiny"', 'name = "../tiny"', "'../tiny'", "a folder can have"),
    "no data": ('data = "digits"', "", "data is missing", "add it"),
    "data that is no text": ('data = "digits"', "data = 5", "data is 5", "text in quotes"),
    "metric without a key": ('key = "test_accuracy"\n', "", "metrics: key is missing", "add it"),
    "percent that is a number": ("percent = true", "percent = 1", "percent is 1", "true or false"),
    "a metric twice": ('"label_score_auroc"', '"test_accuracy"', "metric 'test_accuracy'", "its own name"),
    "two disturbances of one name": ('name = "symmetric 0.4"', 'name = "none"', "disturbance 'none'", "its own name"),
    "two methods of one name": (
        'objective = "drainage"', 'objective = "drainage"\nname = "cross-entropy"', "method 'cross-entropy'", "its own",
    ),
    "a method called like a disturbance": (
        'objective = "drainage"', 'objective = "drainage"\nname = "none"', "'none' is both", "rename one",
    ),
    "published figure of an unknown method": (
        'method = "drainage"', 'method = "drainge"', "published: 'drainge'", "did you mean 'drainage'?",
    ),
    "published figure of an unknown disturbance": (
        'disturbance = "symmetric 0.4"', 'disturbance = "symmetric 0.5"', "'symmetric 0.5'", "'symmetric 0.4'?",
    ),
    "published figure of an unknown metric": (
        'metric = "test_accuracy"', 'metric = "test_acuracy"', "'test_acuracy'", "did you mean 'test_accuracy'?",
    ),
    "published figure in an unknown setting": (
        'setting = "published"', 'setting = "publishd"', "'publishd'", "did you mean 'published'?",
    ),
    "published figure without a source": ('source = "Table 9 of a paper"', "", "source is missing", "add it"),
    "published figure that is no number": ("value = 80.0", 'value = "80"', "value is '80'", "a number"),
    "published figure that is true": ("value = 80.0", "value = true", "value is True", "a number"),
    "published figure that is not finite": ("value = 80.0", "value = nan", "value is nan", "a number"),
    "no seeds": ("[0, 1, 2]", "[]", "seeds are []", "whole numbers"),
    "seeds that are no list": ("[0, 1, 2]", "3", "seeds is 3", "a list"),
    "negative seed": ("[0, 1, 2]", "[-1]", "seeds are [-1]", "at least 0"),
    "seed that is true": ("[0, 1, 2]", "[true]", "seeds are [True]", "whole numbers"),
    "a seed twice": ("[0, 1, 2]", "[1, 1]", "seeds are [1, 1]", "different"),
    "seed too large": ("[0, 1, 2]", "[4294967296]", "4294967296", "below 2 ** 32"),
    "label column that is no text": ("seeds =", "label_column = 5\nseeds =", "label_column is 5", "text in quotes"),
    "columns that are no list": ("seeds =", 'drop_columns = "id"\nseeds =', "drop_columns is 'id'", "a list"),
    "column that is no name": ("seeds =", "drop_columns = [1]\nseeds =", "drop_columns has 1", "give names in quotes"),
    "data set that is no name": ("seeds =", "also_test = [1]\nseeds =", "also_test has 1", "give names in quotes"),
    "image size that is no number": ("seeds =", 'image_size = "x"\nseeds =', "image_size is 'x'", "a whole number"),
    "image size out of range": ("seeds =", "image_size = 0\nseeds =", "image_size is 0", "1 or more"),
    "validation that is no number": ("seeds =", 'validation = "x"\nseeds =', "validation is 'x'", "a number"),
    "validation out of range": ("seeds =", "validation = 1.5\nseeds =", "validation is 1.5", "below 1"),
    "unknown validation labels": ("seeds =", 'validation_labels = "clen"\nseeds =', "'clen'", "noisy or clean"),
    "methods that are no tables": (
        TEXT, SMALLEST.replace('[{ objective = "drainage" }]', "[1]"), "methods", "write [[methods]]",
    ),
    "no method": (TEXT, SMALLEST.replace('[{ objective = "drainage" }]', "[]"), "methods is empty", "at least one"),
    "no metric": (TEXT, SMALLEST.replace('[{ key = "test_accuracy", title = "accuracy" }]', "[]"), "metrics", "one"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "word", "remedy"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_error_with_place_word_and_remedy(old, new, word, remedy):
    assert old in TEXT
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_suite(TEXT.replace(old, new), "my/tiny.toml")
    message = str(caught.value)
    assert "my/tiny.toml" in message
    assert word in message
    assert remedy in message
    assert "\n" not in message


def test_two_published_figures_of_one_number_are_refused():
    figure = TEXT[TEXT.index("[[published]]") :]
    with pytest.raises(ValueError, match=r"tiny\.toml, published: two figures .*drainage.*keep one"):
        parse_suite(TEXT + figure, "tiny.toml")


def test_unknown_data_is_missing_not_wrong():
    suite = make_suite(('data = "digits"', 'data = "digts"'))
    assert suite.missing.startswith("suite tiny needs the data set 'digts'")
    assert suite.missing.endswith("did you mean 'digits'?")
    assert "known are" in make_suite(('data = "digits"', 'data = "/nowhere/x.npz"')).missing
    assert "'/nowhere/t.npz'" in make_suite(("seeds =", 'test = "/nowhere/t.npz"\nseeds =')).missing
    assert make_suite().missing is None
    assert make_suite(('data = "digits"', 'data = "cifar10n:worse"')).missing is None  # a variant of a known one


def test_a_suite_is_found_by_name_or_path(tmp_path):
    with pytest.raises(ValueError, match=r"no suite 'digits-asymetric'.*did you mean 'digits-asymmetric'\?"):
        find_suite("digits-asymetric")
    with pytest.raises(ValueError, match="no file of that name"):
        find_suite(str(tmp_path))
    path = tmp_path / "größe.toml"
    path.write_text("# Größe", encoding="utf-8")
    assert find_suite(str(path)) == ("# Größe", str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"größe\.toml is not a text file.*give a suite's TOML file"):
        find_suite(str(path))


@pytest.mark.parametrize(
    ("noise", "rate"),
    [(None, 0.0), ("symmetric:0.4", 0.4), ("pair-flip:0.45", 0.45), ("relabel:7", None), ("remove-random:4", None)],
)
def test_only_noise_with_a_rate_has_one(noise, rate):
    """Class 7 and 4 classes are no rates."""
    assert Disturbance("a", noise).rate == rate


@pytest.mark.parametrize("name", ["nll", "brier", "ece", "aurc", "unknown_fpr_at_95_tpr"])
def test_metrics_that_count_errors_are_known(name):
    assert Metric(f"test_{name}", "a").lower_is_better
    assert not Metric("test_unknown_auroc", "a").lower_is_better


def test_a_metric_is_read_of_the_part_that_judged_the_run():
    metric = Metric("test_accuracy", "accuracy", percent=True)
    assert metric.of({"judged_on": "test", "test_accuracy": 0.5}) == 50
    assert metric.of({"judged_on": "validation", "validation_accuracy": 0.25}) == 25
    assert metric.of({"judged_on": "validation", "test_accuracy": 0.5}) is None
    assert Metric("label_score_auroc", "a").of({"judged_on": "validation", "label_score_auroc": 0.75}) == 0.75
    assert metric.of({"test_accuracy": None}) is None


# What the documentation says


SUITES_PAGE = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")


def test_the_example_of_the_documentation_is_a_suite():
    suite = parse_suite(SUITES_PAGE.split("```toml\n")[1].split("```")[0], "example.toml")
    assert [setting.name for setting in suite.settings] == ["matched", "published"]
    assert len(plan(suite, Selection())) == 2 * 2 * 2 * 3
    assert len(plan(suite, Selection(tuning="noisy"))) == 2 * 2 * 2 * 4
    published = [run.config.training for run in plan(suite, Selection(settings=("published",), seeds=(0,)))]
    assert [(t.learning_rate, t.l1, t.weight_decay) for t in published[:2]] == [(0.1, 0.0, 1e-3), (0.01, 1e-3, 0.0)]
    assert len(suite.published) == 1


def test_every_key_of_the_file_is_documented():
    table = SUITES_PAGE.split("\n| key | what |")[1].split("\n\n")[0]
    documented = {name for code in re.findall("`([^`]*)`", table) for name in re.findall("[a-z_0-9]+", code)}
    known = {field.name for field in fields(TrainingConfig)} - set(ELSEWHERE)
    assert {*_KEYS, *known} - documented == set()


def test_every_column_of_the_results_is_documented():
    run = plan(make_suite(), Selection())[0]
    written = {*finished(run, 0.5), *failed(run), *to_records(collect(make_suite(), [finished(run, 0.5)]))[0]}
    results = SUITES_PAGE.split("### results.jsonl")[1]
    assert written - set(re.findall("`([a-z_]+)`", results)) == set()


# Which runs


def described(selection, suite=None):
    return [run.describe() for run in plan(suite or make_suite(), selection)]


def test_all_runs_seed_by_seed_in_the_order_of_the_file():
    runs = described(Selection())
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 3
    assert runs[:5] == [
        "matched, none, cross-entropy, seed 0",
        "matched, none, drainage, seed 0",
        "matched, symmetric 0.4, cross-entropy, seed 0",
        "matched, symmetric 0.4, drainage, seed 0",
        "published, none, cross-entropy, seed 0",
    ]


def test_settings_lie_over_one_another():
    runs = {(run.setting, run.method): run.config for run in plan(make_suite(), Selection(only=("symmetric 0.4",)))}
    assert {k: (c.training.l1, c.training.weight_decay, c.training.batch_size) for k, c in runs.items()} == {
        ("matched", "cross-entropy"): (1e-3, 0.0, 128),
        ("matched", "drainage"): (1e-3, 0.0, 128),
        ("published", "cross-entropy"): (0.0, 1e-4, 128),
        ("published", "drainage"): (2e-3, 0.0, 128),
    }
    assert runs["matched", "drainage"].noise == "symmetric:0.4"
    assert runs["matched", "drainage"].parameters == {"alpha": 0.1}


@pytest.mark.parametrize(
    ("selection", "runs"),
    [
        ({"only": ("drainage",)}, 2 * 1 * 2 * 3),
        ({"only": ("none",)}, 1 * 2 * 2 * 3),
        ({"only": ("none", "drainage")}, 1 * 1 * 2 * 3),
        ({"only": ("none", "symmetric 0.4", "drainage", "cross-entropy")}, 24),
        ({"settings": ("published",)}, 2 * 2 * 1 * 3),
        ({"settings": ("published",), "only": ("none", "drainage"), "seeds": (8,)}, 1),
        ({"seeds": (5, 6)}, 2 * 2 * 2 * 2),
        ({"tuning": "noisy"}, 2 * 2 * 2 * 1 * 4),
        ({"tuning": "clean", "seeds": (1, 2)}, 2 * 2 * 2 * 2 * 4),
    ],
)
def test_a_selection_leaves_out_the_others(selection, runs):
    chosen = plan(make_suite(), Selection(**selection))
    assert len(chosen) == runs
    assert all(run.method in selection["only"] for run in chosen if "drainage" in selection.get("only", ()))
    assert all(run.disturbance == "none" for run in chosen if selection.get("only", ())[:1] == ("none",) and runs < 24)
    assert all(run.setting in selection["settings"] for run in chosen if "settings" in selection)
    assert all(run.seed == run.config.training.seed for run in chosen)
    if "seeds" in selection:
        assert {run.seed for run in chosen} == set(selection["seeds"])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"only": ("drainge",)}, "no method or disturbance 'drainge': did you mean 'drainage'?"),
        ({"settings": ("matchd",)}, "no setting 'matchd': did you mean 'matched'?"),
        ({"budget": "large"}, "budget is 'large': choose one of paper, quick"),
        ({"tuning": "test"}, "tuning is 'test': choose noisy or clean"),
        ({"seeds": (-1,)}, "seed is -1"),
    ],
)
def test_a_selection_of_what_is_not_there_is_refused(selection, message):
    with pytest.raises(ValueError, match=r"\S") as caught:
        plan(make_suite(), Selection(**selection))
    assert message in str(caught.value)


def test_the_quick_budget_caps_epochs_and_samples():
    (run, *_) = plan(make_suite(), Selection(budget="quick"))
    assert (run.config.training.epochs, run.config.max_train_samples) == (10, 12_000)
    (run, *_) = plan(make_suite(("epochs = 20", "epochs = 4")), Selection(budget="quick"))
    assert run.config.training.epochs == 4
    (run, *_) = plan(make_suite(), Selection())
    assert (run.config.training.epochs, run.config.max_train_samples) == (20, 0)


@pytest.mark.parametrize("labels", ["noisy", "clean"])
def test_tuning_tries_the_grid_and_leaves_the_test_set_alone(labels):
    runs = plan(make_suite(), Selection(tuning=labels, only=("none", "drainage"), settings=("matched",)))
    assert [(run.variant, run.config.training.l1, run.config.training.learning_rate) for run in runs] == [
        ("l1=0, learning_rate=0.01", 0.0, 0.01),
        ("l1=0, learning_rate=0.1", 0.0, 0.1),
        ("l1=0.001, learning_rate=0.01", 1e-3, 0.01),
        ("l1=0.001, learning_rate=0.1", 1e-3, 0.1),
    ]
    for run in runs:
        config = run.config
        assert (config.validation, config.validation_seed, config.validation_labels) == (0.2, 42, labels)
        assert config.judged_on == "validation"
        assert run.seed == 0
    assert len({run.key for run in runs}) == 4


def test_tuning_without_a_grid_judges_the_settings_as_they_are():
    (run,) = plan(parse_suite(SMALLEST, "smallest.toml"), Selection(tuning="noisy"))
    assert (run.variant, run.config.judged_on, run.seed) == ("", "validation", 0)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1", (4,)), ("2", (4, 2)), ("5", (4, 2, 5, 6, 7)), ("1,2,3", (1, 2, 3)), ("7,", (7,)), (" 3 , 1 ", (3, 1))],
)
def test_seeds_are_so_many_or_these(text, seeds):
    """As many: the suite's own first, then those after its largest."""
    assert parse_seeds(text, make_suite(("[0, 1, 2]", "[4, 2]"))) == seeds


@pytest.mark.parametrize("text", ["0", "x", "-1", "1.5", "", ",", "1,x", "1,1", "1,-2", "²"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ValueError, match="^seeds are .*: give "):
        parse_seeds(text, make_suite())


# One's own suite, with data beside it


def blobs(path, samples=60):
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 3
    np.savez(path, X=(rng.normal(size=(samples, 4)) + 6.0 * np.eye(4)[y]).astype(np.float32), y=y)


def test_a_suite_of_ones_own_runs_from_its_file_to_its_table(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    blobs(tmp_path / "suites" / "blobs.npz")
    path = tmp_path / "suites" / "mine.toml"
    path.write_text(
        'name = "mine"\ndata = "blobs.npz"\nnet = "mlp"\nseeds = [3]\n[training]\nepochs = 1\nbatch_size = 16\n'
        '[[disturbances]]\nname = "flipped"\nnoise = "asymmetric:0.5"\nmapping = "0:1,1:0"\n'
        '[[metrics]]\nkey = "test_accuracy"\ntitle = "accuracy"\npercent = true\n'
        '[[methods]]\nobjective = "drainage"\nparameters = { alpha = 0.1 }\n'
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text, where = find_suite("../suites/mine.toml")
    suite = parse_suite(text, where)
    assert suite.missing is None
    out = tmp_path / "results"
    assert open_folder(suite, text, where, out) == []
    events = []
    run_all(plan(suite, Selection()), out, workers=1, device="cpu", listen=lambda event: events.append(event.kind))
    assert events == ["started", "epoch", "ended"]
    (row,) = read_jsonl(out / "results.jsonl")
    (run,) = plan(suite, Selection())
    assert (row["status"], row["method"], row["disturbance"], row["seed"]) == ("finished", "drainage", "flipped", 3)
    assert row["key"] == run.key
    assert row["noise"]["rate_realised_of_mapped"] == 0.5
    assert row.keys() == {*finished(run, 0.5), "noise"}  # what other tests write, and other programs read
    table = write_bench_report(out)
    (part,) = table.parts
    (line,) = part.rows
    numbers = json.loads((out / "runs" / row["key"] / "metrics.json").read_text())
    assert line.cells["test_accuracy"].values == (100 * numbers["test_accuracy"],)
    assert line.rate_realised == numbers["noise_rate_realised"] == pytest.approx(1 / 3, abs=0.02)
    assert f'href="runs/{row["key"]}/report.html"' in (out / "report.html").read_text()
    run_all(plan(suite, Selection()), out, workers=1, device="cpu", listen=lambda event: pytest.fail("it is done"))


def test_a_disturbance_may_have_data_of_its_own_and_a_method_its_own_net(tmp_path):
    text = (
        SMALLEST.replace("methods = ", "# ")
        + """
[[methods]]
objective = "drainage"
[[disturbances]]
name = "people"
data = "cifar10n:worse"
[[disturbances]]
name = "rare and strange"
noise = "open-set:0.2"
outside = "mnist"
unknowns = "others.npz"
imbalance = "long-tail:10"
[[methods]]
name = "wide"
objective = "cross-entropy"
net = "cnn8"
activation = "selu"
"""
    )
    (tmp_path / "others.npz").touch()
    suite = parse_suite(text, str(tmp_path / "suite.toml"))
    assert suite.sources == ("digits", "cifar10n:worse", "mnist", str(tmp_path / "others.npz"))
    people, _, _, rare = (run.config for run in plan(suite, Selection(seeds=(0,))))
    assert (people.data, people.noise, people.net, people.activation) == ("cifar10n:worse", None, "auto", "relu")
    assert (rare.data, rare.noise, rare.outside, rare.imbalance) == ("digits", "open-set:0.2", "mnist", "long-tail:10")
    assert (rare.unknowns, rare.net, rare.activation) == (str(tmp_path / "others.npz"), "cnn8", "selu")
