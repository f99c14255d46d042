"""Pages made from what a run left on disk: one self-contained HTML file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catchment.files import read_json, read_jsonl, write_text

NAME = "report.html"


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` from a run's config.json, metrics.json and history.jsonl; returns its path."""
    metrics = read_json(folder / "metrics.json")
    config = read_json(folder / "config.json")
    noise = metrics["noise"]
    page = render(
        "run.html",
        title=f"{metrics['objective']} on {metrics['data']}",
        metrics={key: value for key, value in metrics.items() if key != "noise" and value is not None},
        noise=noise,
        class_names=_noise_class_names(config, noise),
        training=config["training"],
        history=read_jsonl(folder / "history.jsonl"),
    )
    write_text(folder / NAME, page)
    return folder / NAME


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in; everything is escaped unless the template says otherwise."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("catchment", "report/templates"), autoescape=True)
    environment.filters["number"] = format_number
    return environment.get_template(template).render(**values)


def format_number(value: Any) -> str:
    """Floats with four significant digits, everything else as it is.

    >>> format_number(0.123456), format_number(12), format_number(None)
    ('0.1235', '12', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _noise_class_names(config: dict[str, Any], noise: dict[str, Any] | None) -> list[str]:
    """Names for the rows of the transition counts, which cover the classes before relabelling."""
    if noise is None:
        return []
    names: list[str] = config["input_format"]["class_names"]
    size = len(noise["transition_counts"])
    return names if len(names) == size else [str(c) for c in range(size)]
