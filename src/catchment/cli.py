"""The commands: thin, each calls one function that a script could call too.

User errors are one line on stderr, ``error: what, and what to do``, with exit status 2; Ctrl-C is 130.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space (a run that had begun goes on by --resume), or change --out",
    errno.EROFS: "the file system is read-only: choose another --out",
    errno.EACCES: "permission denied: choose another place, or change its permissions",
    errno.EISDIR: "that is a folder: name a file",
    errno.ENOTDIR: "part of that path is a file: choose another",
}
OBJECTIVE_HELP = "Method, with parameters after a colon: drainage:alpha=0.1,beta=10."
NOISE_HELP = (
    "symmetric:0.4, symmetric-own:0.4, asymmetric:0.4, pair-flip:0.3, random-pair:0.4, class-proportional:0.4, "
    "instance:0.4, open-set:0.2, relabel:7,8,9, unlabel:7,8,9, remove:7,8,9 or remove-random:4."
)
MAPPING_HELP = "Of asymmetric noise: mnist, cifar10, cifar100-blocks, cifar100-superclass, .. or cat:dog,dog:cat."
EVAL_EVERY_HELP = "Epochs between two looks at the test accuracy, for the history alone; 0: none."
ADAPTATIONS_HELP = "To the corrupted images: none, batch, context, batchnorm, tent; none/logistic, batch/quantile, .."
BUDGET_HELP = "quick: at most 12,000 training samples, 10 epochs, and 400 test images under shift."
TASKS = ("one-vs-rest", "zero-label", "multi-label")
APPLY_HELP = "Only write cleaned data, by the decisions that the page exported."
TENSORBOARD_HELP = "Also write TensorBoard's event files; needs the extra [log]."

Command = Callable[..., Any]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = cli.main(arguments, prog_name="catchment", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped", 130)
    except click.ClickException as error:
        return _fail(f"error: {error.format_message()}", 2)
    except (ValueError, OSError) as error:
        if "CATCHMENT_TRACEBACK" in os.environ:
            traceback.print_exc()
        return _fail(f"error: {_describe(error) if isinstance(error, OSError) else error}", 2)
    return status if isinstance(status, int) else 0


def _console() -> Console:
    """Stdout: as wide as the terminal; where there is none, wide enough for tables to stay whole."""
    return Console(width=None if sys.stdout.isatty() else 200)


def _fail(line: str, status: int) -> int:
    click.echo(" ".join(line.split()), err=True)
    return status


def _describe(error: OSError) -> str:
    what = f"{error.filename}: " if error.filename else ""
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return str(error)
    return what + REMEDIES.get(error.errno or 0, f"{error.strerror or error}: check that path")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="catchment")
def cli() -> None:
    """Classification when labels are wrong, ambiguous, missing, many or rare, or the inputs have shifted.

    Set CATCHMENT_TRACEBACK=1 to see where an error comes from.
    """


def _data_dir_option(command: Command) -> Command:
    return click.option(
        "--data-dir",
        default=None,
        metavar="FOLDER",
        callback=lambda context, option, value: value and str(Path(value).expanduser().absolute()),
        help="Where known data sets lie; default: CATCHMENT_DATA, else data.",
    )(command)


def _constants_option(command: Command) -> Command:
    from catchment.disturb.corruptions import SIDES

    return click.option(
        "--constants",
        "corruption_size",
        type=click.Choice([*SIDES]),
        default=None,
        help="Whose constants of a corruption; default: by the images' side of 32, 64 or 224.",
    )(command)


def _training_options(command: Command) -> Command:
    """An option for each setting of TrainingConfig, with its default."""
    from catchment.training.config import OPTIMIZERS, SCHEDULES, TrainingConfig

    default = TrainingConfig()
    names = {"learning_rate": ["--learning-rate", "--lr"], "clip_norm": ["--clip-norm"]}
    helps = {
        "epochs": "Passes over the training set.",
        "batch_size": "Over all processes together.",
        "optimizer": "Optimiser.",
        "learning_rate": "At the start.",
        "momentum": "Of SGD.",
        "nesterov": "Nesterov momentum for SGD.",
        "weight_decay": "The optimiser's.",
        "l1": "L1 penalty on all parameters.",
        "schedule": "Of the learning rate.",
        "step_size": "Epochs between steps; patience of plateau.",
        "step_factor": "Of step, milestones and plateau.",
        "milestones": "Shares of the epochs after which milestones steps.",
        "clip_norm": "Clip gradients to this norm; 0: off.",
        "early_stopping": "Epochs without a better validation accuracy; 0: off.",
        "augmentation": "Steps with commas, crop:4,flip for example; none. See docs/datasets-large.md.",
        "bf16": "bfloat16 autocast.",
        "channels_last": "Keep images with their channels last in memory, which is faster.",
        "compile": "torch.compile the model.",
        "device": "cpu, cuda, cuda:1, .. or auto.",
        "threads": "CPU threads; 0: choose by the net's size.",
        "workers": "Processes that decode images; 0: choose.",
        "seed": "Of noise, weights, order, augmentation, dropout.",
    }
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    for setting in reversed(dataclasses.fields(TrainingConfig)):
        name, value = setting.name, getattr(default, setting.name)
        flags = names.get(name, ["--" + name.replace("_", "-")])
        if isinstance(value, bool):
            either = f"{flags[0]}/--no-{flags[0].removeprefix('--')}" if value else flags[0]
            option = click.option(either, name, is_flag=True, default=value, show_default=value, help=helps[name])
        elif name == "augmentation":
            option = click.option(*flags, name, default=None, metavar="STEPS", help=helps[name])
        elif name == "milestones":
            shown = ",".join(map(str, value))
            option = click.option(
                *flags, name, default=shown, show_default=True, callback=_read_shares, metavar="SHARES",
                help=helps[name],
            )  # fmt: skip
        else:
            kind = click.Choice(choices[name]) if name in choices else type(value)
            option = click.option(*flags, name, type=kind, default=value, show_default=True, help=helps[name])
        command = option(command)
    return command


def _read_shares(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _split(value))
    except ValueError:
        raise click.BadParameter(f"{value!r}: give numbers with commas, 0.5,0.75") from None


@cli.command()
@click.option(
    "--data", default="digits", show_default=True, help="Known name, folder of class folders, .npz, .csv, .parquet."
)
@_data_dir_option
@click.option("--test", default=None, help="Test data; default: the known split, or 20 % held out.")
@click.option("--label-column", default="label", show_default=True, help="Of a table.")
@click.option("--drop-columns", default="", help="Columns of a table that are no features, with commas.")
@click.option("--image-size", type=int, default=None, help="Resize images to this square.")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out and count them.")
@click.option("--imbalance", default=None, help="long-tail:100 or step:10, largest class over the smallest.")
@click.option("--noise", default=None, help=NOISE_HELP)
@click.option("--mapping", default=None, help=MAPPING_HELP)
@click.option("--outside", default=None, help="Of open-set noise: data whose images come under the labels.")
@click.option("--unknowns", default=None, help="Data whose samples are added to the test part, as of no class.")
@click.option("--task", type=click.Choice(TASKS), default=None, help="What samples may have; default: as labelled.")
@click.option("--top-k", default=4, show_default=True, help="Classes of a multi-label sample that are judged.")
@click.option("--objective", default="drainage", show_default=True, help=OBJECTIVE_HELP)
@click.option("--preset", default=None, help="Published settings for a data set or task (see list objectives).")
@click.option("--noise-robust", default=None, metavar="RUN", help="For dsink: a run, or an objective to train first.")
@click.option("--imbalance-robust", default=None, metavar="RUN", help="Likewise.")
@click.option(
    "--auxiliary-view",
    type=click.Choice(["cached", "augmented"]),
    default="cached",
    show_default=True,
    help="What auxiliaries see: each image once as it is, or what the model sees.",
)
@click.option("--last-epochs", default=0, show_default=True, help="Average the test accuracy over the last epochs too.")
@click.option("--net", default="auto", show_default=True, help="See list nets.")
@click.option("--also-test", default="", help="More data sets of the same classes to judge the model by; with commas.")
@click.option("--activation", default="relu", show_default=True, help="Of the net: relu, prelu, selu or quantile.")
@click.option("--corruptions", default=None, help="Judge on corrupted test images too: benchmark, all, or fog,snow.")
@click.option("--severities", default="1,2,3,4,5", show_default=True, help="Of the corruptions.")
@click.option("--adaptations", default="none", show_default=True, help=ADAPTATIONS_HELP)
@_constants_option
@click.option("--shift-samples", default=0, show_default=True, help="Corrupt so many of the test images; 0: all.")
@click.option(
    "--max-train-samples", default=0, help="Keep so many training samples, stratified; 0: all.", show_default=True
)
@click.option("--validation", type=float, default=0.0, show_default=True, help="Share of the training set held out.")
@click.option("--validation-labels", type=click.Choice(["noisy", "clean"]), default="noisy", show_default=True)
@click.option("--calibrate", is_flag=True, help="Fit a softmax's temperature or a quasibinary C on the part held out.")
@click.option("--eval-every", default=0, show_default=True, help=EVAL_EVERY_HELP)
@_training_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run: new or empty.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; everything else comes from its config.json.")
@click.option("--tensorboard", is_flag=True, help=TENSORBOARD_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object.")
@click.pass_context
def train(context: click.Context, /, out: Path, resume: bool, tensorboard: bool, as_json: bool, **options: Any) -> int:
    """Train a classifier, judge it on the test set, and write a run folder."""
    from catchment.experiments.run import CONFIG, METRICS, RunConfig, run
    from catchment.files import read_json
    from catchment.training.distributed import process_group, rank_and_world_size
    from catchment.training.loop import choose_device
    from catchment.training.progress import EpochProgress

    given = {name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if resume and (out / CONFIG).exists():
        config = RunConfig.from_dict(read_json(out / CONFIG))
        _check_same(config, _run_config(options, given), _settings_given(options, given), out)
        if (out / METRICS).exists():
            click.echo(f"the run in {out} is finished", err=True)
    elif resume and "data" not in given:
        raise ValueError(f"{out} holds no run to go on with: leave out --resume, or name its --data to start it")
    else:
        config = _run_config(options, given)

    with process_group(choose_device(config.training.device)):
        quiet = rank_and_world_size()[0] > 0
        with EpochProgress(config.training.epochs, config.objective, quiet=quiet) as progress:
            try:
                metrics = run(
                    config,
                    out,
                    resume=resume,
                    on_epoch=progress,
                    on_start=_describe_start(quiet),
                    tensorboard=tensorboard,
                )
            except KeyboardInterrupt:
                how = (
                    f"go on with: catchment train --resume --out {out}"
                    if (out / CONFIG).exists()
                    else "nothing was written"
                )
                return _fail(f"stopped after epoch {progress.epoch}; {how}", 130)
    if quiet:
        return 0
    if as_json:
        click.echo(json.dumps(metrics))
    else:
        _print_numbers(metrics, out)
    return 0


def _run_config(options: dict[str, Any], given: set[str]) -> Any:
    """The run that the options describe; settings of a preset come before defaults and after what was given."""
    from catchment.data import is_known
    from catchment.experiments.run import RunConfig
    from catchment.methods import create_objective, parse_objective, preset
    from catchment.training.config import TrainingConfig

    options = dict(options)
    name, parameters = parse_objective(options.pop("objective"))
    training_names = [field.name for field in dataclasses.fields(TrainingConfig)]
    training = {key: options.pop(key) for key in training_names}
    preset_name = options.pop("preset")
    if preset_name is not None:
        published = preset(name, preset_name)
        parameters = {**published["objective"], **parameters}
        training |= {key: value for key, value in published["training"].items() if key not in given}
    create_objective(name, num_classes=2, **parameters)
    steps = training["augmentation"]
    if isinstance(steps, str):
        training["augmentation"] = tuple(step for step in _split(steps) if step != "none")
    for key in ("data", "test", "outside", "unknowns"):
        path = Path(options[key] or "").expanduser()
        if options[key] is not None and not is_known(options[key]) and path.exists():
            options[key] = str(path.absolute())  # the run may be resumed from another folder
    for key in ("drop_columns", "also_test"):
        options[key] = _split(options[key])
    options["severities"] = tuple(int(text) if text.isdecimal() else text for text in _split(options["severities"]))
    options["adaptations"] = _split(options["adaptations"])
    return RunConfig(**options, objective=name, parameters=parameters, training=TrainingConfig(**training))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _settings_given(options: dict[str, Any], given: set[str]) -> set[str]:
    """The settings that the options name, those of a preset included."""
    from catchment.methods import parse_objective, preset

    if "preset" not in given:
        return given
    published = preset(parse_objective(options["objective"])[0], options["preset"])
    return given - {"preset"} | {"objective"} | published["training"].keys()


def _check_same(saved: Any, asked: Any, given: set[str], out: Path) -> None:
    """Raise a ValueError if a setting that was given contradicts the run's config."""
    for name in sorted(given):
        of_training = hasattr(saved.training, name)
        before = getattr(saved.training if of_training else saved, name)
        now = getattr(asked.training if of_training else asked, name)
        same = before == now and (name != "objective" or saved.parameters == asked.parameters)
        if not same:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"the run in {out} was started with {flag} {before}, not {now}: leave {flag} out to go on")


def _describe_start(quiet: bool) -> Callable[[Any, Any], None]:
    def show(data: Any, model: Any) -> None:
        from catchment.experiments.auxiliaries import roles_needed

        for note in dict.fromkeys((*data.train.notes, *data.test.notes)):
            click.echo(note, err=True)
        noise = "" if data.noise is None else f", {data.noise['rate_realised']:.2%} of the labels changed"
        click.echo(
            f"{data.train.name}: {len(data.train)} training and {len(data.test)} test samples, "
            f"{data.train.num_classes} classes{noise}",
            err=True,
        )
        roles = roles_needed(model.objective)
        if roles:
            names = " and ".join(role.replace("_", "-") for role in roles)
            click.echo(f"the {names} models come first, where no finished run of them is given", err=True)

    return (lambda data, model: None) if quiet else show


def _print_numbers(metrics: dict[str, Any], out: Path) -> None:
    from catchment.report import NAME, format_number

    shown = {
        key: value
        for key, value in metrics.items()
        if isinstance(value, float) and key != "train_seconds" and not key.startswith("shift_")
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for key, value in shown.items():
        table.add_row(key, format_number(value))
    _console().print(table)
    if metrics.get("adaptations"):
        from catchment.report.shift import drop_table, severity_table

        for measure in ("accuracy", "ece"):
            click.echo(f"\n{severity_table(metrics, metrics['adaptations'], measure)}")
        click.echo(f"\n{drop_table(metrics, metrics['adaptations'])}\n")
    click.echo(f"{metrics['reported']}: {metrics['reported_epoch']} of {metrics['epochs']}; report: {out / NAME}")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .csv to write.")
@_data_dir_option
@click.option("--label-column", default="label", show_default=True, help="Of a table, if it has labels.")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out and count them.")
@click.option("--corruption", default=None, metavar="NAME:SEVERITY", help="Corrupt the images first: fog:3.")
@_constants_option
@click.option("--corruption-seed", type=int, default=0, show_default=True, help="Of the corruption's draws.")
@click.option("--max-risk", type=float, default=None, help="Accept so that at most this share is wrong: 0.05.")
@click.option("--delta", type=float, default=0.1, show_default=True, help="How likely --max-risk may fail.")
@click.option("--threshold", type=float, default=None, help="Predict every class of this probability; default: 0.5.")
@click.option("--precision", type=float, default=None, help="Thresholds per class, for this share of right ones: 0.9.")
@click.option(
    "--calibration", default=None, help="Labelled data for --max-risk or --precision; default: RUN's held-out part."
)
@click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, .. or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def predict(run_folder: Path, data: str, out: Path, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Predict for new DATA with the model of a finished RUN.

    Columns of the table: id, predicted, confidence, unknown_score, accepted (1, or 0: abstain) with --max-risk, label
    and label_score where the data has labels, then a probability for each class.

    For a RUN of multi-label or zero-label data, or with --threshold or --precision, predicted names every class above
    its threshold with semicolons, none included.
    """
    from catchment.experiments.prediction import write_predictions

    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another --out, or add --overwrite")
    summary = write_predictions(run_folder, data, out, **options)
    if as_json:
        click.echo(json.dumps(summary))
        return
    skipped = f", {summary['skipped_files']} unreadable files left out" if summary["skipped_files"] else ""
    click.echo(f"{summary['rows']} predictions in {out}{skipped}")
    if summary["corruption"]:
        click.echo(f"images {summary['corruption']}")
    if summary["thresholds"] is not None:
        never = [name for name, threshold in summary["thresholds"].items() if threshold is None]
        click.echo(f"{summary['labels']} labels predicted")
        if never:
            click.echo(f"no threshold reaches that precision, so never predicted: {', '.join(never)}")
    if summary["abstention"] is not None:
        _print_abstention(summary["abstention"], summary["rows"])


def _print_abstention(found: dict[str, Any], rows: int) -> None:
    click.echo(
        f"accepted {found['accepted']} of {rows}; of {found['calibration_samples']} calibration samples "
        f"({found['calibration']}) {found['calibration_accepted']}, {found['calibration_wrong']} of them wrong"
    )
    if not found["calibration_accepted"]:
        click.echo("no threshold could be shown to keep the risk: give more calibration samples, or raise --max-risk")
        return
    click.echo(
        f"promise: {found['promise']}; it fails where calibration labels are wrong, where new data differ from the "
        "calibration data, and where these helped to choose the model (docs/abstain.md)"
    )


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(["onnx", "torch", "safetensors", "model-card"]), help="Form.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The file; default: in RUN.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def export(run_folder: Path, to: str, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Write the model of a finished RUN in a form that needs no catchment.

    onnx is checked with onnxruntime; torch is a torch.export program; safetensors holds the weights and all that says
    what they are; model-card is Markdown with data, noise, protocol, metrics and limits.
    """
    from catchment.export import export_run

    if out is not None and out.exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another --out, or add --overwrite")
    written = export_run(run_folder, to, out)
    if as_json:
        click.echo(json.dumps(written))
        return
    difference = written.get("largest_difference")
    checked = "" if difference is None else f" (probabilities within {difference:.1g} of torch's)"
    click.echo(f"{written['path']}{checked}")


@cli.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder; replaced if a demo wrote it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object.")
def demo(out: Path, as_json: bool) -> None:
    """Show what this is for, on real data, in under a minute."""
    from catchment.experiments.demo import run_demo

    console = Console(stderr=as_json)
    numbers = run_demo(out, console)
    if as_json:
        click.echo(json.dumps(numbers))


@cli.command()
@click.argument("suite")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the results; default: runs/SUITE."
)
@_data_dir_option
@click.option("--seeds", default=None, help="How many (5), or which (1,2,3); default: the suite's; 1 to tune.")
@click.option("--budget", type=click.Choice(["paper", "quick"]), default="paper", show_default=True, help=BUDGET_HELP)
@click.option("--setting", "settings", multiple=True, help="Of the suite, matched or published; default: all it has.")
@click.option("--only", multiple=True, metavar="NAME", help="A method or disturbance of the suite; may be repeated.")
@click.option("--tuning", is_flag=True, help="Judge on 20 % of the training set (seed 42), over the suite's grid.")
@click.option(
    "--validation-labels",
    type=click.Choice(["noisy", "clean"]),
    default="noisy",
    show_default=True,
    help="With --tuning.",
)
@click.option(
    "--workers", type=click.IntRange(0), default=0, help="Runs at a time; 0: a run per CPU core, or one on CUDA."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, .. or auto.")
@click.option("--eval-every", type=click.IntRange(0), default=0, show_default=True, help=EVAL_EVERY_HELP)
@click.option("--tensorboard", is_flag=True, help=TENSORBOARD_HELP)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What does the runs."
)
@click.option("--address", default=None, help="Of the Ray cluster; default: a running one, else this machine.")
@click.option("--cpus-per-run", type=click.FloatRange(0), default=1.0, show_default=True, help="On Ray.")
@click.option("--gpus-per-run", type=click.FloatRange(0), default=0.0, show_default=True, help="On Ray: 0.25, say.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and what is done already.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as one JSON object.")
@click.pass_context
def bench(
    context: click.Context,
    suite: str,
    out: Path | None,
    data_dir: str | None,
    seeds: str | None,
    budget: str,
    settings: tuple[str, ...],
    only: tuple[str, ...],
    tuning: bool,
    validation_labels: str,
    workers: int,
    device: str,
    eval_every: int,
    tensorboard: bool,
    engine: str,
    address: str | None,
    cpus_per_run: float,
    gpus_per_run: float,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run a SUITE, methods x disturbances x seeds, and print its table beside the published figures.

    SUITE is a name (see list suites) or a file. Finished runs are never run again, so the same command goes on after
    any stop, and several may work on one folder at once. Exit status 1 if runs failed: their errors are in the table.
    """
    from catchment.experiments import bench as runner
    from catchment.experiments.bench_progress import BenchProgress
    from catchment.experiments.bench_report import write_bench_report
    from catchment.experiments.ray_engine import run_all_on_ray
    from catchment.experiments.results_table import for_terminal, to_records
    from catchment.experiments.suite import Selection, find_suite, parse_seeds, parse_suite, plan
    from catchment.report import NAME
    from catchment.training.tensorboard import TensorBoardLog

    source = click.core.ParameterSource.COMMANDLINE
    if not tuning and context.get_parameter_source("validation_labels") is source:
        raise ValueError("--validation-labels goes with --tuning: add it, or leave both out")
    text, where = find_suite(suite)
    found = parse_suite(text, where)
    out = out or Path("runs") / found.name
    selection = Selection(
        seeds=None if seeds is None else parse_seeds(seeds, found),
        budget=budget,
        settings=settings,
        only=only,
        tuning=validation_labels if tuning else None,
    )
    runs = plan(found, selection)
    missing = found.missing or next(iter(_not_on_disk(found, data_dir).values()), None)
    if dry_run:
        _print_plan(found, runs, runner.finished_rows(out), missing, as_json)
        return 0
    if missing:
        raise ValueError(missing)
    if engine == "local":
        workers = workers or runner.default_workers(device)
        run_all: Any = partial(runner.run_all, workers=workers)
        how = f"{workers} at a time"
    else:
        run_all = partial(run_all_on_ray, address=address, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run)
        how = "as tasks on Ray"
    if tensorboard:
        TensorBoardLog(out)  # says now what each run would say
    for note in runner.open_folder(found, text, where, out):
        click.echo(f"note: {note}", err=True)
    finished = runner.finished_rows(out)
    keys = {run.key for run in runs}
    left = len(keys - finished.keys())
    click.echo(f"{found.name}: {len(keys)} runs, {len(keys) - left} done before; {how}", err=True)
    if tuning:
        click.echo(f"tuning on 20 % of the training set (seed 42) with {validation_labels} labels", err=True)
    try:
        with BenchProgress(left, found.metrics[0]) as progress:
            run_all(
                runs,
                out,
                device=device,
                data_dir=data_dir,
                eval_every=eval_every,
                tensorboard=tensorboard,
                listen=progress,
            )
    except KeyboardInterrupt:
        done = len(keys & runner.finished_rows(out).keys())
        return _fail(f"stopped with {done} of {len(keys)} runs done; the same command goes on", 130)
    if progress.ended < left:
        click.echo(f"{left - progress.ended} runs were done by another runner meanwhile", err=True)
    table = write_bench_report(out)
    failed = len(keys - runner.finished_rows(out).keys())
    if as_json:
        click.echo(json.dumps({"suite": found.name, "failed": failed, "results": to_records(table)}))
    else:
        _console().print(for_terminal(table))
        click.echo(f"report: {out / NAME}")
    return 1 if failed else 0


def _not_on_disk(suite: Any, data_dir: str | None) -> dict[str, str]:
    """The known data sets of a suite that are not there, each with how to get it."""
    from catchment.data import is_known, not_on_disk

    found = {name: not_on_disk(name, data_dir) for name in suite.sources if is_known(name)}
    return {name: how for name, how in found.items() if how is not None}


def _print_plan(suite: Any, runs: list[Any], finished: dict[str, Any], missing: str | None, as_json: bool) -> None:
    rows = [
        {
            "key": run.key,
            "run": run.describe(),
            "epochs": run.config.training.epochs,
            "learning_rate": run.config.training.learning_rate,
            "l1": run.config.training.l1,
            "weight_decay": run.config.training.weight_decay,
            "done": run.key in finished,
        }
        for run in runs
    ]
    if as_json:
        click.echo(json.dumps({"suite": suite.name, "missing": missing, "runs": rows}))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for key in rows[0]:
        table.add_column(key.replace("_", " "), no_wrap=key == "key")
    for row in rows:
        table.add_row(
            *(Text({True: "done", False: ""}.get(v, str(v)) if k == "done" else str(v)) for k, v in row.items())
        )
    _console().print(table)
    done = len({row["key"] for row in rows if row["done"]})
    click.echo(f"{len({row['key'] for row in rows})} runs, {done} done")
    if missing:
        click.echo(missing, err=True)


@cli.command()
@click.argument("data")
@_data_dir_option
@click.option("--imbalance", default=None, help="long-tail:100 or step:10, largest class over the smallest.")
@click.option("--noise", default=None, help=NOISE_HELP)
@click.option("--mapping", default=None, help=MAPPING_HELP)
@click.option("--outside", default=None, help="Of open-set noise: data whose images come under the labels.")
@click.option("--max-train-samples", type=int, default=0, help="Keep so many training samples, stratified; 0: all.")
@click.option("--label-column", default="label", show_default=True, help="Of a table.")
@click.option("--image-size", type=int, default=None, help="Resize images to this square.")
@click.option("--corruption", default=None, help="Of images: all, benchmark (15 of the 19), or names with commas.")
@_constants_option
@click.option("--device", default="cpu", show_default=True, help="Where to corrupt: cpu, cuda, ...")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every draw.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npz, or folder of corruptions.")
@click.option("--overwrite", is_flag=True, help="Replace --out, or the corruptions in it, if they exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON object.")
def disturb(
    seed: int,
    out: Path,
    overwrite: bool,
    as_json: bool,
    corruption: str | None,
    corruption_size: str | None,
    device: str,
    **options: Any,
) -> None:
    """Write a spoiled copy of DATA for other programs: an .npz with X, y, y_clean, and the record of what was done.

    The same data, noise and seed spoil the same labels as in catchment train.

    With --corruption, write its (test) images under common corruptions instead: a folder in the layout of CIFAR-10-C,
    five severities of each. Stopped, the same command goes on.
    """
    if corruption is not None:
        _corrupt(corruption, out, overwrite, as_json, seed=seed, size=corruption_size, device=device, **options)
        return
    if corruption_size is not None:
        raise ValueError("--constants of no corruption do nothing: add --corruption all")
    from catchment.experiments.run import RunConfig
    from catchment.experiments.spoil import write_spoiled
    from catchment.training.config import TrainingConfig

    if out.suffix != ".npz":
        raise ValueError(f"{out} does not end in .npz: name the file so")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another --out, or add --overwrite")
    record = write_spoiled(RunConfig(**options, training=TrainingConfig(seed=seed)), out)
    if as_json:
        click.echo(json.dumps(record))
        return
    noise = record["noise"]
    changed = "" if noise is None else f", {noise['rate_realised']:.2%} of the labels changed"
    click.echo(f"{record['samples']} training samples of {record['classes']} classes in {out}{changed}")


def _corrupt(names: str, out: Path, overwrite: bool, as_json: bool, *, data: str, **options: Any) -> None:
    from catchment.experiments.corruption import CorruptionProgress, parse_corruptions, write_corruptions

    for name in ("noise", "imbalance", "mapping", "outside", "max_train_samples"):
        if options.pop(name):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is of training labels, and --corruption of test images: ask for one at a time")
    if out.suffix == ".npz":
        raise ValueError(f"{out} ends in .npz, but corruptions are written to a folder: name one")
    chosen = parse_corruptions(names)
    with CorruptionProgress(chosen) as progress:
        record = write_corruptions(data, chosen, out, overwrite=overwrite, listen=progress, **options)
    if as_json:
        click.echo(json.dumps(record))
        return
    count = f"{record['samples']} images x 5 severities x {len(chosen)} corruptions"
    click.echo(f"{count}, with the constants of {record['size']}, in {out}: {record['note']}")


@cli.command()
@click.argument("data")
@_data_dir_option
@click.option("--noise", default=None, help="Spoil the labels first, of data whose labels are right: " + NOISE_HELP)
@click.option("--mapping", default=None, help=MAPPING_HELP)
@click.option("--label-column", default="label", show_default=True, help="Of a table.")
@click.option("--image-size", type=int, default=None, help="Resize images to this square.")
@click.option("--objective", "objectives", multiple=True, help="A candidate; repeat it; default: six.")
@click.option("--net", default="auto", show_default=True, help="See list nets.")
@click.option("--splits", type=int, default=5, show_default=True, help="Random validation splits.")
@click.option("--validation", type=float, default=0.2, show_default=True, help="Share of the training set in each.")
@click.option("--max-train-samples", type=int, default=0, help="Keep so many training samples, stratified; 0: all.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Of every training.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Of every training.")
@click.option("--learning-rate", "--lr", type=float, default=0.05, show_default=True, help="Of SGD, at the start.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, .. or auto.")
@click.option("--threads", type=int, default=0, show_default=True, help="CPU threads; 0: choose by the net's size.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of noise, weights and order.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def choose(
    objectives: tuple[str, ...],
    splits: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: str,
    threads: int,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Say which objective to take for DATA, and how sure that is, without a clean label.

    Every candidate is trained on the same random splits and compared by its accuracy on the held-out labels as they
    are. The test part is not looked at. Where noise depends on the class, this can mislead: see docs/choose.md.
    """
    from catchment.experiments.choose import CANDIDATES
    from catchment.experiments.choose import choose as compare
    from catchment.experiments.run import RunConfig
    from catchment.methods import parse_objective
    from catchment.training.config import TrainingConfig

    training = TrainingConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, device=device, threads=threads, seed=seed
    )
    config = RunConfig(**options, training=training)
    candidates = tuple(parse_objective(text) for text in objectives) or CANDIDATES
    found = compare(
        config,
        candidates,
        splits=splits,
        on_run=lambda name, split, accuracy: click.echo(f"split {split + 1}: {name} {accuracy:.4f}", err=True),
    ).to_dict()
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("objective", "noisy accuracy", "behind by", "p", "clean accuracy"):
        table.add_column(title, justify="left" if title == "objective" else "right")
    for row in found["candidates"]:
        behind = "" if row["p_value"] is None else f"{row['behind_by']:.4f} ± {row['standard_error']:.4f}"
        p = "" if row["p_value"] is None else f"{row['p_value']:.3f}"
        clean = "" if row["clean_accuracy"] is None else f"{row['clean_accuracy']:.4f}"
        table.add_row(row["objective"], f"{row['noisy_accuracy']:.4f}", behind, p, clean)
    _console().print(table)
    click.echo(found["verdict"])


@cli.command()
@click.argument("data")
@_data_dir_option
@click.option("--label-column", default="label", show_default=True, help="Of a table.")
@click.option("--drop-columns", default="", help="Columns of a table that are no features, with commas.")
@click.option("--image-size", type=int, default=None, help="Resize images to this square.")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out and count them.")
@click.option("--probabilities", default=None, metavar="FILE", help="Judge by the probabilities in this .npz or .npy.")
@click.option("--run", default=None, metavar="RUN", help="Judge by the model of this finished run.")
@click.option("--folds", default=0, show_default=True, help="Judge by cross-validation; 0: by one training run.")
@click.option("--objective", default=None, help="To train with; default: drainage, of many labels quasibinary.")
@click.option("--net", default="auto", show_default=True, help="See list nets.")
@_training_options
@click.option("--score", default="self-confidence", show_default=True, help="What ranks the suspects.")
@click.option("--scores", type=click.Choice(["all"]), default=None, help="Give every other score too, and compare.")
@click.option("--suspects", type=int, default=None, help="How many to list; default: those believed wrong.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("suspects.csv"), show_default=True, help="The .csv to write."
)
@click.option("--page", type=click.Path(path_type=Path), default=None, help="Review page; default: --out as .html.")
@click.option("--no-page", is_flag=True, help="Write no review page.")
@click.option("--drop", "decision", flag_value="drop", default=None, help="Also write cleaned data without suspects.")
@click.option("--relabel", "decision", flag_value="relabel", help="Also write cleaned data, labelled as suggested.")
@click.option("--apply", "decisions", type=click.Path(path_type=Path), default=None, help=APPLY_HELP)
@click.option("--cleaned", type=click.Path(path_type=Path), default=None, help="Where; default: DATA-cleaned by --out.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist; DATA never.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def audit(
    decisions: Path | None,
    cleaned: Path | None,
    overwrite: bool,
    as_json: bool,
    page: Path | None,
    no_page: bool,
    scores: str | None,
    out: Path,
    decision: str | None,
    **options: Any,
) -> None:
    """Find the labels of DATA that are probably wrong: a ranked list, a page to review them on, cleaned data.

    Trains a model for it, unless --probabilities or --run are given to judge by.
    """
    from catchment.audit import apply_decisions, run_audit
    from catchment.training.progress import EpochProgress

    config = _audit_config(options)
    if decisions is not None:
        if decision is not None:
            raise ValueError("--apply takes its decisions from a file: leave --drop and --relabel out")
        summary = apply_decisions(config, decisions, cleaned, overwrite=overwrite)
        click.echo(json.dumps(summary) if as_json else _describe_cleaned(summary))
        return
    if cleaned is not None and decision is None:
        raise ValueError("--cleaned says where cleaned data go: add --drop, --relabel or --apply decisions.csv")
    trains = config.probabilities is None and config.run is None
    epochs = (config.folds or 1) * config.training.epochs
    with EpochProgress(epochs, quiet=not trains) as progress:
        summary = run_audit(
            config,
            out,
            page=None if no_page else page or out.with_suffix(".html"),
            compare=scores == "all",
            decision=decision,
            cleaned=cleaned,
            overwrite=overwrite,
            on_epoch=lambda name, row: progress({**row, "epoch": progress.epoch + 1}),
        )
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _print_audit(summary)


def _audit_config(options: dict[str, Any]) -> Any:
    """The audit that the options describe."""
    from catchment.audit import AuditConfig
    from catchment.methods import parse_objective
    from catchment.training.config import TrainingConfig

    training = {field.name: options.pop(field.name) for field in dataclasses.fields(TrainingConfig)}
    if isinstance(training["augmentation"], str):
        training["augmentation"] = tuple(step for step in _split(training["augmentation"]) if step != "none")
    parameters: dict[str, Any] = {}
    if options["objective"] is not None:
        options["objective"], parameters = parse_objective(options["objective"])
    options["drop_columns"] = _split(options["drop_columns"])
    return AuditConfig(**options, parameters=parameters, training=TrainingConfig(**training))


def _print_audit(summary: dict[str, Any]) -> None:
    for note in summary["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"{summary['data']}: {summary['wrong']} of {summary['labels']} labels are believed wrong (95 % interval "
        f"{summary['wrong_low']} to {summary['wrong_high']}), judged by {summary['judged_by']}"
    )
    if summary["scores"]:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for key in dict.fromkeys(key for row in summary["scores"] for key in row):
            table.add_column(key.replace("_", " "), no_wrap=True)
        for row in summary["scores"]:
            table.add_row(
                *("-" if value is None else f"{value:.3f}" if key != "score" else value for key, value in row.items())
            )
        _console().print(table)
    click.echo(f"{summary['suspects']} suspects in {summary['out']}")
    if summary["page"]:
        click.echo(f"review them on {summary['page']}")
    elif not summary["suspects"]:
        click.echo("no label is believed wrong: list the most suspect anyway, by --suspects 100", err=True)
    if summary["cleaned"]:
        click.echo(_describe_cleaned(summary["cleaned"]))


def _describe_cleaned(changed: dict[str, Any]) -> str:
    return (
        f"{changed['kept']} samples in {changed['path']}: {changed['dropped']} dropped, "
        f"{changed['relabelled']} of the others relabelled"
    )


@cli.command()
@click.argument("name")
@_data_dir_option
@click.option("--force", is_flag=True, help="Download again what is there.")
@click.option("--json", "as_json", is_flag=True, help="Print where the files lie as one JSON object.")
def fetch(name: str, data_dir: str | None, force: bool, as_json: bool) -> None:
    """Download a known data set, check it against its published checksum, and unpack it."""
    from catchment.data import data_folder, known_set
    from catchment.data.fetch import fetch as fetch_set

    known = known_set(name)
    paths = fetch_set(known, data_folder(data_dir), force=force)
    if as_json:
        click.echo(json.dumps({"name": name, "files": [str(path) for path in paths]}))
        return
    click.echo(f"{name} is in {data_folder(data_dir)}: {', '.join(str(path) for path in paths)}")


@cli.command("report")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Of a comparison; default: comparison.html.")
@click.option("--tsne", is_flag=True, help="Of one run: first map its features, in tsne.npz; reads its data again.")
@click.option("--json", "as_json", is_flag=True, help="Print where the page lies as one JSON object.")
def report_(folders: tuple[Path, ...], out: Path | None, tsne: bool, as_json: bool) -> None:
    """Make the page of a run or a suite again, or with several runs a page that compares them.

    Nothing is trained again: pages are made from what is on disk. A map of the features, once made, stays on a run's
    page.
    """
    from catchment import report
    from catchment.experiments.bench import SUITE
    from catchment.experiments.bench_report import write_bench_report

    if tsne and (len(folders) > 1 or (folders[0] / SUITE).exists()):
        raise ValueError("--tsne is of one run: name one run's folder, or leave --tsne out")
    if len(folders) > 1:
        page = report.write_comparison(folders, out or Path("comparison.html"))
    elif out is not None:
        raise ValueError("--out is of a comparison, and the page of one run lies in its folder: leave --out out")
    elif (folders[0] / SUITE).exists():
        write_bench_report(folders[0])
        page = folders[0] / report.NAME
    else:
        if tsne:
            from catchment.experiments.feature_map import write_feature_map

            write_feature_map(folders[0])
        page = report.write_run_report(folders[0])
    click.echo(json.dumps({"report": str(page)}) if as_json else str(page))


@cli.command("list")
@click.argument("what", type=click.Choice(["objectives", "data", "nets", "suites"]))
@_data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(what: str, data_dir: str | None, as_json: bool) -> None:
    """List the objectives, data sets, nets or suites."""
    from catchment.data import data_folder

    rows = _LISTS[what](data_dir)
    if as_json:
        click.echo(json.dumps({what: rows}))
        return
    if what == "data":  # the rest is in --json
        shown = ("name", "classes", "train", "test", "noise", "licence", "on_disk", "layout")
        rows = [{key: row[key] for key in shown} for row in rows]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for key in rows[0]:
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=key == "name")
    for row in rows:
        cells = (_shortened(value) if isinstance(value, list) else str(value) for value in row.values())
        table.add_row(*(Text(cell) for cell in cells))  # as Text, since rich would read [vision] as markup
    _console().print(table)
    if what == "data":
        click.echo(
            f"looked for in {data_folder(data_dir)} (--data-dir, or CATCHMENT_DATA); get them by catchment fetch NAME"
        )


def _shortened(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more (--json has all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _list_objectives(_: str | None) -> list[dict[str, Any]]:
    from catchment.methods import list_objectives

    return [
        {
            "name": m.name,
            "paper": m.paper,
            "year": m.year,
            "formula": m.formula,
            "for": m.purpose,
            "presets": [*m.presets],
        }
        for m in list_objectives()
    ]


def _list_data(data_dir: str | None) -> list[dict[str, Any]]:
    from catchment.data import KNOWN, data_folder

    folder = data_folder(data_dir)
    rows = []
    for known in KNOWN.values():
        found = known.find(folder)
        how = "no: fetch it" if known.downloads else "no: apply for it"
        info = dataclasses.asdict(known.info) | {"variants": list(known.info.variants)}
        rows.append({**info, "on_disk": how if found is None else str(found), "looked_for_in": str(folder)})
    return rows


def _list_nets(_: str | None) -> list[dict[str, Any]]:
    from catchment.nets import NETS

    return [{"name": name, "what": description} for name, description in NETS.items()]


def _list_suites(data_dir: str | None) -> list[dict[str, Any]]:
    from catchment.experiments.suite import Selection, find_suite, list_suites, parse_suite, plan

    suites = [parse_suite(*find_suite(name)) for name in list_suites()]
    return [
        {
            "name": suite.name,
            "what": suite.title,
            "data": suite.data,
            "methods": [method.name for method in suite.methods],
            "settings": [setting.name for setting in suite.settings],
            "runs": len({run.key for run in plan(suite, Selection())}),
            "not_on_disk": ", ".join(_not_on_disk(suite, data_dir)) or "-",
        }
        for suite in suites
    ]


_LISTS = {"objectives": _list_objectives, "data": _list_data, "nets": _list_nets, "suites": _list_suites}
