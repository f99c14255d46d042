"""Marks for ``torch.compile`` that don't load it: the decorators of ``torch.compiler`` add a second to every import."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.disable``, from the first compiled call on."""
    disabled: Callable[P, R] | None = None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        nonlocal disabled
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    return call


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.assume_constant_result``, whose mark this is, on torch 2.6 as today."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
