"""The nearest known name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def did_you_mean(name: str, known: Collection[str], listing: str) -> str:
    """A question that names the nearest, or all of them after ``listing``.

    >>> did_you_mean("drainge", ["drainage", "gce"], "choose one of")
    "did you mean 'drainage'?"
    >>> did_you_mean("x", ["drainage", "gce"], "choose one of")
    'choose one of drainage, gce'
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{listing} {', '.join(known) or 'none'}"
