"""The commands: thin, each calls one function that a script could call too.

User errors are one line on stderr, ``error: what, and what to do``, with exit status 2; Ctrl-C is 130.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import traceback
import warnings
from collections.abc import Callable
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
        "step_factor": "Of step and plateau.",
        "clip_norm": "Clip gradients to this norm; 0: off.",
        "early_stopping": "Epochs without a better validation accuracy; 0: off.",
        "augmentation": "crop:P and flip, with a comma; none; default: what the data set wants.",
        "bf16": "bfloat16 autocast.",
        "channels_last": "Memory format of images.",
        "compile": "torch.compile the model.",
        "device": "cpu, cuda, cuda:1, .. or auto.",
        "threads": "CPU threads; 0: choose by the net's size.",
        "seed": "Of noise, weights, order, augmentation, dropout.",
    }
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    for setting in reversed(dataclasses.fields(TrainingConfig)):
        name, value = setting.name, getattr(default, setting.name)
        flags = names.get(name, ["--" + name.replace("_", "-")])
        if isinstance(value, bool):
            option = click.option(*flags, name, is_flag=True, default=value, help=helps[name])
        elif name == "augmentation":
            option = click.option(*flags, name, default=None, metavar="STEPS", help=helps[name])
        else:
            kind = click.Choice(choices[name]) if name in choices else type(value)
            option = click.option(*flags, name, type=kind, default=value, show_default=True, help=helps[name])
        command = option(command)
    return command


@cli.command()
@click.option(
    "--data", default="digits", show_default=True, help="Known name, folder of class folders, .npz, .csv, .parquet."
)
@click.option("--test", default=None, help="Test data; default: the known split, or 20 % held out.")
@click.option("--label-column", default="label", show_default=True, help="Of a table.")
@click.option("--drop-columns", default="", help="Columns of a table that are no features, with commas.")
@click.option("--image-size", type=int, default=None, help="Resize images to this square.")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out and count them.")
@click.option("--noise", default=None, help="symmetric:0.4, asymmetric:0.4, pair-flip:0.3 or relabel:7,8,9.")
@click.option("--mapping", default=None, help="Of asymmetric noise: mnist, cifar10, or cat:dog,dog:cat.")
@click.option("--objective", default="drainage", show_default=True, help=OBJECTIVE_HELP)
@click.option("--preset", default=None, help="Published settings for a data set (see list objectives).")
@click.option("--net", default="auto", show_default=True, help="See list nets.")
@click.option("--validation", type=float, default=0.0, show_default=True, help="Share of the training set held out.")
@click.option("--validation-labels", type=click.Choice(["noisy", "clean"]), default="noisy", show_default=True)
@_training_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run: new or empty.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; everything else comes from its config.json.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object.")
@click.pass_context
def train(context: click.Context, /, out: Path, resume: bool, as_json: bool, **options: Any) -> int:
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
                metrics = run(config, out, resume=resume, on_epoch=progress, on_start=_describe_start(quiet))
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
    from catchment.data import KNOWN
    from catchment.experiments.run import RunConfig
    from catchment.methods import create_objective, preset
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
    for key in ("data", "test"):
        path = Path(options[key] or "").expanduser()
        if options[key] not in KNOWN and options[key] is not None and path.exists():
            options[key] = str(path.absolute())  # the run may be resumed from another folder
    options["drop_columns"] = _split(options["drop_columns"])
    return RunConfig(**options, objective=name, parameters=parameters, training=TrainingConfig(**training))


def parse_objective(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of ``drainage:alpha=0.1,beta=10``.

    >>> parse_objective("drainage:alpha=0.1")
    ('drainage', {'alpha': 0.1})
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in _split(rest):
        key, equals, value = part.partition("=")
        try:
            parameters[key.strip()] = json.loads(value) if equals else None
        except json.JSONDecodeError:
            parameters[key.strip()] = None
        if not isinstance(parameters[key.strip()], int | float):
            raise ValueError(f"objective parameter {part!r} is not a number: write {name}:name=number,name=number")
    return name, parameters


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _settings_given(options: dict[str, Any], given: set[str]) -> set[str]:
    """The settings that the options name, those of a preset included."""
    from catchment.methods import preset

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
        for note in dict.fromkeys((*data.train.notes, *data.test.notes)):
            click.echo(note, err=True)
        noise = "" if data.noise is None else f", {data.noise['rate_realised']:.2%} of the labels changed"
        click.echo(
            f"{data.train.name}: {len(data.train)} training and {len(data.test)} test samples, "
            f"{data.train.num_classes} classes{noise}",
            err=True,
        )

    return (lambda data, model: None) if quiet else show


def _print_numbers(metrics: dict[str, Any], out: Path) -> None:
    from catchment.report import NAME, format_number

    shown = {key: value for key, value in metrics.items() if isinstance(value, float) and key != "train_seconds"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for key, value in shown.items():
        table.add_row(key, format_number(value))
    Console().print(table)
    click.echo(f"{metrics['reported']}: {metrics['reported_epoch']} of {metrics['epochs']}; report: {out / NAME}")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .csv to write.")
@click.option("--label-column", default="label", show_default=True, help="Of a table, if it has labels.")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out and count them.")
@click.option("--overwrite", is_flag=True, help="Replace --out if it exists.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, .. or auto.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def predict(run_folder: Path, data: str, out: Path, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Predict for new DATA with the model of a finished RUN.

    Columns of the table: id, predicted, confidence, unknown_score, label and label_score where the data has labels,
    then a probability for each class.
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


@cli.command("list")
@click.argument("what", type=click.Choice(["objectives", "data", "nets"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(what: str, as_json: bool) -> None:
    """List the objectives, data sets or nets."""
    rows = _LISTS[what]()
    if as_json:
        click.echo(json.dumps({what: rows}))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for key in rows[0]:
        table.add_column(key, overflow="fold", no_wrap=key == "name")
    for row in rows:
        cells = (", ".join(value) if isinstance(value, list) else str(value) for value in row.values())
        table.add_row(*(Text(cell) for cell in cells))  # as Text, since rich would read [vision] as markup
    Console().print(table)


def _list_objectives() -> list[dict[str, Any]]:
    from catchment.methods import list_objectives

    return [
        {
            "name": m.name,
            "formula": m.formula,
            "for": m.purpose,
            "paper": m.paper,
            "year": m.year,
            "presets": [*m.presets],
        }
        for m in list_objectives()
    ]


def _list_data() -> list[dict[str, Any]]:
    from catchment.data import KNOWN

    return [dataclasses.asdict(info) for info in KNOWN.values()]


def _list_nets() -> list[dict[str, Any]]:
    from catchment.nets import NETS

    return [{"name": name, "what": description} for name, description in NETS.items()]


_LISTS = {"objectives": _list_objectives, "data": _list_data, "nets": _list_nets}
