"""Templates filled in: what every page has in common."""

from __future__ import annotations

import functools
import re
from typing import Any

from markupsafe import Markup, escape


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in; everything is escaped unless it is ``markupsafe.Markup``."""
    return str(_environment().get_template(template).render(**{"contents": (), **values}))


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("catchment", "report/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = format_number
    environment.filters["breakable"] = _breakable
    environment.filters["sentence"] = sentence
    return environment


def _breakable(name: str) -> Markup:
    """A name of several words, which a narrow screen may break where they join."""
    return Markup(re.sub(r"(?<=[_.])", "<wbr>", str(escape(name))))


def sentence(text: str) -> str:
    """The text with a capital first letter; ``str.capitalize`` would spoil the names in it.

    >>> sentence("matched settings of ANL-CE")
    'Matched settings of ANL-CE'
    """
    return text[:1].upper() + text[1:]


def format_number(value: Any) -> str:
    """Floats with four significant digits, everything else as it is.

    >>> format_number(0.123456), format_number(12), format_number(None)
    ('0.1235', '12', '-')
    """
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_percent(share: float | None) -> str:
    """A share as a percentage with one digit after the point.

    >>> format_percent(0.91666), format_percent(None)
    ('91.7 %', '-')
    """
    return "-" if share is None else f"{100 * share:.1f} %"
