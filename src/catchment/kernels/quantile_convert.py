"""Finding the ReLUs of a model and putting other layers in their place."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

MakeLayer = Callable[[int], nn.Module]

_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


def replace_relus(
    model: nn.Module, inputs: tuple[Any, ...], make_layer: MakeLayer, *, block_ends: bool
) -> tuple[nn.Module, dict[str, int]]:
    """A copy of ``model`` with ``make_layer(channels)`` in place of its ReLUs, and the channels of each by name."""
    model = copy.deepcopy(model)
    _split_shared(model)
    try:
        graph = _Tracer(make_layer).trace(model)
    except Exception as error:  # whatever a model's forward does with a stand-in for a tensor
        if block_ends:
            raise ValueError(
                f"{type(model).__name__} can't be traced, so the ends of its blocks can't be told: "
                f'use where="all" ({error})'
            ) from None
        return model, _replace_modules(model, inputs, make_layer, str(error))
    return _replace_in_graph(model, graph, inputs, make_layer, block_ends)


class _Tracer(fx.Tracer):
    """A tracer to which the new layers are whole, so that a converted model can be converted again."""

    def __init__(self, make_layer: MakeLayer) -> None:
        super().__init__()
        self._whole = make_layer if isinstance(make_layer, type) else ()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._whole) or super().is_leaf_module(m, module_qualified_name)


def _split_shared(model: nn.Module) -> None:
    """Give each name under which one ReLU is known a ReLU of its own."""
    seen = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.ReLU):
            if id(module) in seen:
                _set(model, name, nn.ReLU(module.inplace))
            seen.add(id(module))


def _set(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


class _Places:
    """What went through the ReLUs of a model on an example: channels and device, per place."""

    def __init__(self) -> None:
        self.channels: dict[Any, int] = {}
        self.device: dict[Any, torch.device] = {}

    def see(self, place: Any, value: Tensor) -> None:
        if value.ndim < 2:
            raise ValueError(f"a ReLU takes an input of shape {tuple(value.shape)}: give an example with a batch")
        self.channels[place] = value.shape[1]
        self.device[place] = value.device

    def layer(self, place: Any, make_layer: MakeLayer, training: bool) -> nn.Module:
        return make_layer(self.channels[place]).to(self.device[place]).train(training)


class _Watch(fx.Interpreter):
    """Runs a graph, noting the channels of the chosen nodes."""

    def __init__(self, module: nn.Module, graph: fx.Graph, nodes: list[fx.Node]) -> None:
        super().__init__(module, graph=graph)
        self.nodes = set(nodes)
        self.places = _Places()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            self.places.see(n, value)
        return value


def _replace_in_graph(
    model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...], make_layer: MakeLayer, block_ends: bool
) -> tuple[nn.Module, dict[str, int]]:
    modules = dict(model.named_modules())
    relus = [node for node in graph.nodes if _is_relu(node, modules)]
    chosen = [node for node in relus if not block_ends or _is_sum(_input_of(node))]
    with torch.no_grad():
        watch = _Watch(copy.deepcopy(model).eval(), graph, chosen)
        watch.run(*inputs)
    uses = Counter(node.target for node in relus if node.op == "call_module")
    names = _names(relus, modules)
    needs_graph = any(node.op != "call_module" or uses[node.target] > 1 for node in chosen)
    for node in chosen:
        layer = watch.places.layer(node, make_layer, model.training)
        _set(model, names[node], layer)
        if needs_graph:
            with graph.inserting_after(node):
                new = graph.call_module(names[node], (_input_of(node),))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    places = {names[node]: watch.places.channels[node] for node in chosen}
    if needs_graph:
        model = fx.GraphModule(model, graph, type(model).__name__)
    return model, places


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), nn.ReLU)
    return (node.op == "call_function" and node.target in _RELU_FUNCTIONS) or (
        node.op == "call_method" and node.target in _RELU_METHODS
    )


def _input_of(node: fx.Node) -> fx.Node:
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    return source


def _is_sum(node: fx.Node) -> bool:
    return node.target in _SUMS and len(node.all_input_nodes) == 2


def _names(relus: list[fx.Node], modules: dict[str, nn.Module]) -> dict[fx.Node, str]:
    """A name for each use: the module's own for its first one, then with a number."""
    names: dict[fx.Node, str] = {}
    taken = set(modules)
    for node in relus:
        stem = str(node.target) if node.op == "call_module" else "functional_relu"
        name, number = stem, 1
        while name in names.values() or (name in taken and name != node.target):
            number += 1
            name = f"{stem}_{number}"
        names[node] = name
    return names


def _replace_modules(model: nn.Module, inputs: tuple[Any, ...], make_layer: MakeLayer, reason: str) -> dict[str, int]:
    """Replace the ReLU modules that an example goes through once."""
    places = _Places()
    uses: Counter[str] = Counter()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    probe = copy.deepcopy(model).eval()

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            uses[name] += 1
            places.see(name, output)

        return note

    for name in names:
        probe.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad():
        probe(*inputs)
    once = [name for name in names if uses[name] == 1]
    for name in once:
        _set(model, name, places.layer(name, make_layer, model.training))
    left = [name for name in names if uses[name] != 1]
    warnings.warn(
        f"the model can't be traced ({reason}): functional ReLUs stay if it has any"
        + (f", and so do {', '.join(left)}, not used exactly once" if left else ""),
        stacklevel=4,
    )
    return {name: places.channels[name] for name in once}
