"""From data with labels to a ranked list of suspect ones, a page to review them on, and cleaned data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catchment import metrics
from catchment.audit.cleaning import check_out, cleaned_suffix, decide_all, read_decisions, write_cleaned
from catchment.audit.confident import ConfidentLearning, WrongLabels, confident_learning
from catchment.audit.evidence import Evidence, from_file, from_run, one_run, out_of_fold
from catchment.audit.review import PAGE_SUSPECTS, write_review
from catchment.audit.scores import Floats, chunks
from catchment.audit.suspects import SCORES, Suspects, all_scores, list_suspects, one_score, rank, write_suspects
from catchment.data import IGNORE_INDEX, Dataset, is_known, load_inputs
from catchment.data.load import load_labelled
from catchment.experiments.run import RunConfig, load_run
from catchment.training.config import TrainingConfig

# Below this share of labels that the judge agrees with, the count of wrong ones is doubted.
_AGREEMENT = 0.75
DEFAULT_SCORE = "self-confidence"
# An objective for one label per sample, and one for any number of them.
OBJECTIVES = "drainage", "quasibinary"


@dataclass(frozen=True)
class AuditConfig:
    """What an audit does.

    Args:
        data: a known name, of which the training part is judged; a folder of class folders, ``.npz``, ``.csv``,
            ``.parquet`` or COCO ``.json``, of which all of it is.
        data_dir: where known data sets lie.
        label_column: of a table.
        drop_columns: columns of a table that are no features.
        image_size: to which images are resized.
        skip_unreadable: leave unreadable images out.
        probabilities: judge by these instead of training, see :func:`~catchment.audit.from_file`.
        run: judge by this finished run's model.
        folds: judge by cross-validation; 0: by one training run.
        objective: what to train with; None: drainage, or quasibinary for multi-label data.
        parameters: of the objective.
        net: what to train.
        score: by which suspects are ranked, one of ``SCORES``.
        suspects: how many to list; None: as many as are believed wrong.
        training: how to train.
    """

    data: str
    data_dir: str | None = None
    label_column: str = "label"
    drop_columns: tuple[str, ...] = ()
    image_size: int | None = None
    skip_unreadable: bool = False
    probabilities: str | None = None
    run: str | None = None
    folds: int = 0
    objective: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    net: str = "auto"
    score: str = DEFAULT_SCORE
    suspects: int | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.probabilities is not None and self.run is not None:
            raise ValueError("probabilities and a run are both given to judge by: leave one of them out")
        if self.folds and (self.probabilities is not None or self.run is not None):
            raise ValueError("folds are of training, and labels are judged by what was given: leave --folds out")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}: give 2 or more, or 0 for one training run")
        if self.score not in SCORES:
            raise ValueError(f"there is no score {self.score!r}: choose one of {', '.join(SCORES)}")
        if self.suspects is not None and self.suspects < 1:
            raise ValueError(
                f"suspects is {self.suspects}: give 1 or more, or leave it out to list those believed wrong"
            )


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Args:
        dataset: that was judged.
        evidence: what it was judged by.
        found: by confident learning.
        wrong: how many labels are believed wrong.
        score: ``(N,)`` or ``(N, C)``, higher = more suspect.
        suspects: the most suspect, ranked.
    """

    dataset: Dataset
    evidence: Evidence
    found: ConfidentLearning
    wrong: WrongLabels
    score: Floats
    suspects: Suspects


def read_data(config: AuditConfig) -> Dataset:
    """The data with all their labels."""
    if config.run is not None and not is_known(config.data):
        _, like, _ = load_run(Path(config.run))
        dataset = load_inputs(
            config.data, like, label_column=config.label_column, skip_unreadable=config.skip_unreadable
        )
    else:
        dataset = load_labelled(
            config.data,
            label_column=config.label_column,
            drop_columns=config.drop_columns,
            image_size=config.image_size,
            skip_unreadable=config.skip_unreadable,
            data_dir=config.data_dir,
        )
    if not dataset.is_multi_label and not (dataset.labels >= 0).any():
        raise ValueError(f"{dataset.name} has no label to judge: give labels of at least two classes")
    return dataset


def audit(
    config: AuditConfig,
    dataset: Dataset | None = None,
    *,
    on_epoch: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
) -> Audit:
    """Judge every label of the data and rank the suspect ones.

    Args:
        config: what to do.
        dataset: where it is already read.
        on_epoch: called with what is being trained, and each row of its history.

    Raises:
        ValueError: the settings or the data can't be used.
    """
    dataset = read_data(config) if dataset is None else dataset
    evidence = _evidence(config, dataset, on_epoch)
    found = confident_learning(evidence.probabilities, dataset.labels)
    wrong = count_wrong(evidence, dataset.labels, found)
    score = one_score(config.score, evidence, dataset.labels, found)
    count = wrong.count if config.suspects is None else config.suspects
    return Audit(dataset, evidence, found, wrong, score, list_suspects(dataset, evidence, found, score, count))


def _evidence(config: AuditConfig, dataset: Dataset, on_epoch: Callable[[str, dict[str, Any]], None]) -> Evidence:
    if config.probabilities is not None:
        return from_file(Path(config.probabilities), dataset)
    if config.run is not None:
        return from_run(Path(config.run), dataset, config.training.device)
    objective = config.objective or OBJECTIVES[dataset.is_multi_label]
    run_config = RunConfig(objective=objective, parameters=config.parameters, net=config.net, training=config.training)
    if config.folds:
        return out_of_fold(dataset, run_config, config.folds, on_epoch)
    return one_run(dataset, run_config, on_epoch)


def count_wrong(evidence: Evidence, labels: NDArray[Any], found: ConfidentLearning) -> WrongLabels:
    """How many labels are believed wrong, counted among the held-out samples where there are some."""
    rows = evidence.held_out
    if rows is None or not len(rows):
        return found.wrong_labels()
    there = confident_learning(evidence.probabilities[rows], labels[rows]).wrong_labels()
    times = len(labels) / len(rows)
    return WrongLabels(*(min(labels.size, round(number * times)) for number in (there.count, there.low, there.high)))


def doubt_the_count(evidence: Evidence, labels: NDArray[Any]) -> tuple[str, ...]:
    """A note where the judge agrees with so few labels that many of what it takes for wrong ones are its own errors."""
    if labels.ndim == 2:
        return ()
    rows = evidence.held_out if evidence.held_out is not None else np.arange(len(labels))
    agrees = np.zeros(len(rows), dtype=np.bool_)
    p = evidence.probabilities if evidence.held_out is None else evidence.probabilities[rows]
    for part, block, y in chunks(p, labels[rows], check=False):
        agrees[part] = (block.argmax(1) == y).numpy()
    share = float(agrees[labels[rows] >= 0].mean())
    if share >= _AGREEMENT:
        return ()
    return (
        f"the judge agrees with {share:.0%} of the labels only, so the count may hold its own errors too: believe the "
        "order, and train longer, another --net or --objective, or give better --probabilities",
    )


def compare_scores(result: Audit, scores: dict[str, Floats]) -> list[dict[str, Any]]:
    """A row for each score: how many of the suspects it shares and, where clean labels are known, how good it is.

    Keys: ``score``, ``shared`` (of as many of its own most suspect labels, the share among the suspects), and
    ``auroc``, ``average_precision`` and ``precision`` (among as many as are wrong) where clean labels are known.
    """
    dataset = result.dataset
    labels = dataset.labels
    flat = labels.shape[1] if dataset.is_multi_label else 1
    classes = 0 if result.suspects.classes is None else result.suspects.classes
    listed = result.suspects.rows * flat + classes
    rows = []
    for name, score in scores.items():
        row: dict[str, Any] = {"score": name, "shared": None}
        if len(listed):
            row["shared"] = float(np.isin(rank(score, len(listed)), listed).mean())
        if dataset.clean_labels is not None:
            judged = ~np.isnan(score) & (dataset.clean_labels != IGNORE_INDEX)
            wrong = labels[judged] != dataset.clean_labels[judged]
            if wrong.any() and not wrong.all():
                row["auroc"] = metrics.auroc(score[judged], wrong)
                row["average_precision"] = metrics.average_precision(score[judged], wrong)
                row["precision"] = float(wrong[rank(score[judged], int(wrong.sum()))].mean())
        rows.append(row)
    return rows


def run_audit(
    config: AuditConfig,
    out: Path,
    *,
    page: Path | None = None,
    compare: bool = False,
    decision: str | None = None,
    cleaned: Path | None = None,
    overwrite: bool = False,
    on_epoch: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
    on_data: Callable[[Dataset], None] = lambda dataset: None,
) -> dict[str, Any]:
    """Do an audit and write what it found.

    Args:
        config: what to do.
        out: the csv file of suspects.
        page: the review page; None writes none.
        compare: also give every other score, in the csv file and in a comparison.
        decision: "drop" or "relabel" all suspects in ``cleaned``.
        cleaned: where those go; None: beside ``out``, named after the data.
        overwrite: replace files that exist.
        on_epoch: called with what is being trained, and each row of its history.
        on_data: called with the data once they are read.

    Returns:
        A summary: ``data``, ``samples``, ``labels``, ``classes``, ``judged_by``, ``score``, ``wrong``, ``wrong_low``,
        ``wrong_high``, ``suspects``, ``out``, ``page``, ``on_page``, ``cleaned``, ``scores``, ``notes``.

    Raises:
        ValueError: something can't be used, or a file exists; nothing was written then.
    """
    _check_files(config, out, page, overwrite)
    dataset = read_data(config)
    on_data(dataset)
    if decision is not None:
        cleaned = default_cleaned(config.data, dataset, out) if cleaned is None else cleaned
        check_out(config.data, dataset, cleaned, overwrite=overwrite)
    result = audit(config, dataset, on_epoch=on_epoch)
    scores = all_scores(result.evidence, dataset.labels, result.found) if compare else {}
    suspects = result.suspects
    out.parent.mkdir(parents=True, exist_ok=True)
    write_suspects(out, dataset, suspects, scores)
    written = None
    if page is not None and len(suspects):
        page.parent.mkdir(parents=True, exist_ok=True)
        written = write_review(page, dataset, suspects, features=result.evidence.features, wrong=result.wrong)
    changed = None
    if decision is not None and cleaned is not None:
        changed = write_cleaned(
            config.data,
            dataset,
            decide_all(suspects, decision),
            cleaned,
            label_column=config.label_column,
            overwrite=overwrite,
        )
    return {
        "data": dataset.name,
        "samples": len(dataset),
        "labels": int(dataset.labels.size if dataset.is_multi_label else (dataset.labels >= 0).sum()),
        "classes": dataset.num_classes,
        "judged_by": result.evidence.how,
        "score": config.score,
        "wrong": result.wrong.count,
        "wrong_low": result.wrong.low,
        "wrong_high": result.wrong.high,
        "suspects": len(suspects),
        "out": str(out),
        "page": None if written is None else str(written),
        "on_page": min(len(suspects), PAGE_SUSPECTS),
        "cleaned": None if changed is None else {"path": str(cleaned), **changed},
        "scores": compare_scores(result, scores) if compare else None,
        "notes": [
            *dict.fromkeys((*dataset.notes, *result.evidence.notes, *doubt_the_count(result.evidence, dataset.labels)))
        ],
    }


def apply_decisions(
    config: AuditConfig, decisions: Path, cleaned: Path | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write cleaned data by the decisions of a review.

    Args:
        config: says what the data are; nothing is trained.
        decisions: the csv file that the page exported.
        cleaned: where to write; None: beside ``decisions``, named after the data.
        overwrite: replace an existing file.

    Returns:
        ``path``, ``kept``, ``dropped``, ``relabelled``.

    Raises:
        ValueError: the decisions don't fit the data, or ``cleaned`` can't be written to.
    """
    dataset = read_data(config)
    found = read_decisions(decisions, dataset)
    target = default_cleaned(config.data, dataset, decisions) if cleaned is None else cleaned
    if target.exists() and target.samefile(decisions):
        raise ValueError(f"{target} is the file of decisions: choose another name for the cleaned data")
    changed = write_cleaned(config.data, dataset, found, target, label_column=config.label_column, overwrite=overwrite)
    return {"path": str(target), **changed}


def default_cleaned(source: str, dataset: Dataset, beside: Path) -> Path:
    """Where cleaned data go: beside a file, called after the data."""
    name = source.replace(":", "-") if is_known(source) else Path(source).expanduser().resolve().stem
    return beside.parent / f"{name}-cleaned{cleaned_suffix(source, dataset)}"


def _check_files(config: AuditConfig, out: Path, page: Path | None, overwrite: bool) -> None:
    given: Sequence[str | None] = (None if is_known(config.data) else config.data, config.probabilities)
    inputs = [Path(name).expanduser() for name in given if name is not None]
    for path in (out, page):
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if any(each.exists() and path.exists() and path.samefile(each) for each in inputs):
            raise ValueError(f"{path} is what is read, which is never written to: choose another name")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists: choose another name, or add --overwrite")
    if page is not None and page.resolve() == out.resolve():
        raise ValueError(f"{out} can't hold both the list and the page: choose another --page")
