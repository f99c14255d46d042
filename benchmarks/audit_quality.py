"""How well suspect labels are found, on human and made errors, beside cleanlab from the same probabilities.

python benchmarks/audit_quality.py [--data-dir FOLDER] [--sets NAME ..] [--samples N] [--seeds N] [--folds K]
    [--epochs N] [--feature-samples N] [--feature-epochs N] [--csv FILE]

For each set and seed, drawn by the seed: a stratified subset of the training part to judge, and another, disjoint one,
on whose given labels a small convolutional net is trained; its features of the first subset are the inputs. Then K-fold
cross-validation of an mlp on them with cross-entropy, whose probabilities go to our scores and to cleanlab's; and one
training run each of drainage and of cross-entropy, judged from its epochs. Same features, net, settings, epochs and
seed for all. Wrong labels are those that differ
from the published clean ones. Printed are mean and sd over the seeds of AUROC, average precision, and the precision
among as many of the most suspect labels as are wrong; for what cleanlab and confident learning call issues, their
number over the true one and their precision; and seconds of training. Needs the extra [dev], and for cifar10n and mnist
their files (--data-dir, or CATCHMENT_DATA).
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from catchment import metrics
from catchment.audit import (
    confident_learning,
    confident_margin,
    normalised_margin,
    one_run,
    out_of_fold,
    self_confidence,
)
from catchment.audit.evidence import outputs
from catchment.audit.runner import count_wrong
from catchment.data import Dataset, load_data
from catchment.experiments.noise import apply_noise
from catchment.experiments.run import RunConfig, create_model
from catchment.files import csv_text, write_text
from catchment.training.config import TrainingConfig
from catchment.training.loop import train as train_model

# data, noise
SETS = {
    "cifar10n:aggre": ("cifar10n:aggre", None),
    "cifar10n:random1": ("cifar10n:random1", None),
    "cifar10n:worse": ("cifar10n:worse", None),
    "mnist asymmetric 0.4": ("mnist", "asymmetric:0.4"),
    "mnist instance 0.4": ("mnist", "instance:0.4"),
    "digits asymmetric 0.4": ("digits", "asymmetric:0.4"),
}
Row = dict[str, str | float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--feature-samples", type=int, default=4000)
    parser.add_argument("--feature-epochs", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.sets:
        for seed in range(1, options.seeds + 1):
            found = judge(name, seed, options)
            rows += [{"set": name, "seed": seed, **row} for row in found]
            print(f"{name}, seed {seed}: done", flush=True)
            if options.csv:
                write_text(options.csv, csv_text(rows))
        print_table(name, [row for row in rows if row["set"] == name])


def judge(name: str, seed: int, options: argparse.Namespace) -> list[Row]:
    """A row for each score."""
    dataset = load(name, seed, options)
    wrong = dataset.labels != dataset.clean_labels
    training = TrainingConfig(epochs=options.epochs, seed=seed, device=options.device)
    started = time.perf_counter()
    plain = RunConfig(objective="cross-entropy", training=training)
    crossed = out_of_fold(dataset, plain, options.folds)
    seconds = {f"{options.folds}-fold": time.perf_counter() - started}
    scores, issues = {}, {}
    p, y = crossed.probabilities, dataset.labels
    found = confident_learning(p, y)
    scores[f"{options.folds}-fold", "self-confidence"] = self_confidence(p, y)
    scores[f"{options.folds}-fold", "margin"] = normalised_margin(p, y)
    scores[f"{options.folds}-fold", "confident-learning"] = confident_margin(p, y, found.thresholds)
    issues[f"{options.folds}-fold", "confident-learning"] = found.is_off_diagonal
    estimates = {f"{options.folds}-fold": found.wrong_labels()}
    of_cleanlab, cleanlab_issues = cleanlab_scores(p, y, f"{options.folds}-fold")
    scores |= of_cleanlab
    issues |= cleanlab_issues
    for objective in ("drainage", "cross-entropy"):
        started = time.perf_counter()
        config = RunConfig(objective=objective, training=training)
        single, how = one_run(dataset, config), f"one run, {objective}"
        seconds[how] = time.perf_counter() - started
        found = confident_learning(single.probabilities, y)
        estimates[how] = count_wrong(single, y, found)
        scores |= {(how, score): values for score, values in single.scores.items()}
        scores[how, "self-confidence"] = self_confidence(single.probabilities, y)
        scores[how, "margin"] = normalised_margin(single.probabilities, y)
        scores[how, "confident-learning"] = confident_margin(single.probabilities, y, found.thresholds)
        issues[how, "confident-learning"] = found.is_off_diagonal
    rows: list[Row] = []
    for (how, score), values in scores.items():
        top = np.argsort(-values, kind="stable")[: wrong.sum()]
        row: Row = {
            "from": how,
            "score": score,
            "noise": float(wrong.mean()),
            "auroc": metrics.auroc(values, wrong),
            "ap": metrics.average_precision(values, wrong),
            "precision": float(wrong[top].mean()),
            "seconds": seconds[how],
        }
        if (how, score) in issues:
            called = issues[how, score]
            row |= {"called": called.sum() / wrong.sum(), "called_precision": float(wrong[called].mean())}
        if score == "confident-learning":
            e = estimates[how]
            row |= {"estimate": e.count / wrong.sum(), "low": e.low / wrong.sum(), "high": e.high / wrong.sum()}
        rows.append(row)
    return rows


def cleanlab_scores(p, y, how):
    """Scores, higher = more suspect, and what find_label_issues says."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    scores, issues = {}, {}
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        scores[how, f"cleanlab {method}"] = -get_label_quality_scores(y, p, method=method)
    for filter_by in ("prune_by_noise_rate", "confident_learning"):
        name = how, f"cleanlab {filter_by}"
        issues[name] = find_label_issues(y, p, filter_by=filter_by, n_jobs=1)
        # what it calls an issue first, and by self-confidence among those and among the others
        scores[name] = issues[name] + 0.5 * (1 + scores[how, "cleanlab self_confidence"])
    return scores, issues


def load(name: str, seed: int, options: argparse.Namespace) -> Dataset:
    """Features of a subset of the training part, with its given and its clean labels."""
    source, noise = SETS[name]
    splits = load_data(source, data_dir=options.data_dir)
    if noise is not None:
        mapping = "mnist" if noise.startswith("asymmetric") else None
        splits = apply_noise(splits, noise, mapping=mapping, seed=seed)[0]
    train = splits.train
    order = np.random.default_rng([seed, 3]).permutation(len(train))
    by_class = order[np.argsort(train.clean_labels[order], kind="stable")]
    # at even distances through the classes: first those to judge, then among the others those to learn features from
    judged = by_class[spread(len(by_class), min(options.samples, len(by_class) // 2))]
    others = by_class[~np.isin(by_class, judged)]
    elsewhere = train.select(others[spread(len(others), options.feature_samples)])
    training = TrainingConfig(epochs=options.feature_epochs, seed=seed, device=options.device)
    model = create_model(RunConfig(objective="cross-entropy", training=training), elsewhere)
    train_model(model, elsewhere, training)
    subset = train.select(judged)
    return replace(subset, inputs=outputs(model, subset).features, augmentation=())


def spread(length: int, count: int) -> np.ndarray:
    """Up to so many positions, evenly spaced."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))


def print_table(name: str, rows: list[Row]) -> None:
    """Mean and sd over the seeds."""
    seeds = len({row["seed"] for row in rows})
    print(f"\n{name}: {statistics.mean(float(row['noise']) for row in rows):.1%} wrong, {seeds} seeds")
    columns = ("auroc", "ap", "precision", "called", "called_precision", "estimate", "low", "high", "seconds")
    print(f"{'from':24} {'score':38} " + " ".join(f"{column:>16}" for column in columns))
    for how, score in dict.fromkeys((str(row["from"]), str(row["score"])) for row in rows):
        cells = []
        for column in columns:
            values = [
                float(row[column]) for row in rows if (row["from"], row["score"]) == (how, score) and column in row
            ]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):8.3f} ± {sd:.3f}" if values else "")
        print(f"{how:24} {score:38} " + " ".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
