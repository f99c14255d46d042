"""Every method by name: create it, list them, look up its published settings."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from typing import Any

from catchment import drainage, dsink, quantile, quasibinary, watershed
from catchment.baselines import long_tail, multilabel, noisy_labels, unknowns
from catchment.baselines.classification_loss import Conventions
from catchment.nearest import did_you_mean
from catchment.objective import Method, Objective

_MODULES = (drainage, quasibinary, dsink, quantile, watershed, noisy_labels, long_tail, multilabel, unknowns)
_METHODS: dict[str, Method] = {method.name: method for module in _MODULES for method in module.METHODS}


def list_objectives() -> tuple[Method, ...]:
    """The records of all methods, by name.

    >>> [method.name for method in list_objectives()][:4]
    ['ael', 'agce', 'anl-ce', 'anl-ce-er']
    """
    return tuple(sorted(_METHODS.values(), key=lambda method: method.name))


def create_objective(name: str, *, num_classes: int, **parameters: Any) -> Objective:
    """The objective called ``name``; ``num_classes`` goes where its constructor wants it.

    Raises:
        ValueError: the name, a parameter or its value is not one that it knows.

    >>> create_objective("drainage", num_classes=10, alpha=0.1)
    DrainageLoss(alpha=0.1, beta=10, constant=None)
    """
    method = _method(name)
    make = method.make or method.cls
    accepted = _parameters(make)
    for parameter in parameters:
        if parameter not in accepted:
            known = ", ".join(key for key in accepted if key != "num_classes")
            raise ValueError(f"{name} has no parameter {parameter!r}: it knows {known}")
    if "num_classes" in accepted:
        parameters["num_classes"] = num_classes
    try:
        return make(**parameters)
    except TypeError as error:
        raise ValueError(f"{name} can't be made with {parameters}: {error}") from None


def _parameters(make: Callable[..., Objective]) -> tuple[str, ...]:
    """The names of the parameters that it takes."""
    names: list[str] = []
    for name, parameter in inspect.signature(make).parameters.items():
        names.extend(Conventions.__annotations__ if parameter.kind is parameter.VAR_KEYWORD else [name])
    return tuple(names)


def parse_objective(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of ``drainage:alpha=0.1,beta=10``.

    >>> parse_objective("drainage:alpha=0.1")
    ('drainage', {'alpha': 0.1})
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        try:
            parameters[key.strip()] = json.loads(value) if equals else None
        except json.JSONDecodeError:
            parameters[key.strip()] = None
        if not isinstance(parameters[key.strip()], int | float):
            raise ValueError(f"objective parameter {part!r} is not a number: write {name}:name=number,name=number")
    return name, parameters


def preset(objective: str, dataset: str) -> dict[str, dict[str, Any]]:
    """The published settings of a method on a data set: ``{"objective": {...}, "training": {...}}``.

    Raises:
        ValueError: there is no such method, or nothing is published for it on that data set.

    >>> preset("drainage", "cifar100")["objective"]
    {'alpha': 0.1}
    """
    presets = _method(objective).presets
    if dataset not in presets:
        raise ValueError(
            f"no settings of {objective} are published for {dataset!r}: known are {', '.join(presets) or 'none'}"
        )
    return {part: copy.deepcopy(dict(values)) for part, values in presets[dataset].items()}


def _method(name: str) -> Method:
    if name not in _METHODS:
        raise ValueError(f"there is no objective {name!r}: {did_you_mean(name, sorted(_METHODS), 'choose one of')}")
    return _METHODS[name]
