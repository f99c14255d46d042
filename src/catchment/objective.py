"""The one idea that ties the methods together: an Objective says everything about a method, once.

It says which outputs of the network it takes, which columns of the batch it needs, how many outputs it adds,
which head makes them, and how to read them as probabilities, as "none of these", and as "this label is wrong".
The training loop asks no other question about the method it runs.

Modules take logits, always. Scores run higher = more suspect, always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catchment.loss_conventions import IGNORE_INDEX, UNKNOWN_CLASS, at_least_float32


class MissingExtraError(ValueError):
    """A method needs a package that is not installed."""


class Objective(nn.Module):
    """A loss, and how to read the outputs of a network trained with it.

    A subclass writes ``forward`` with the outputs named in ``inputs``, then the target, then the batch columns named
    in ``needs`` as keywords, and overrides whatever else differs from softmax classification.

    Buffers are of two kinds. *Inference state* (``register_buffer``) is saved with the model; the objective itself
    keeps it equal over processes. *Per-sample training state* (``register_sample_state``) lives in the checkpoint only.

    Attributes:
        inputs: which of the network's outputs it takes, in order: "logits", "features".
        needs: batch columns it takes by keyword: "index" (positions in the training set), "progress" (0 to 1), or
            any column given to ``train``.
        extra_outputs: outputs beyond the C classes.
        exclusive: whether the rows of ``probabilities`` sum to 1.
        accepts_unknown: whether it learns from samples labelled -1, "none of the known classes".
        diagnostics: numbers about the last batch, by name, that go into each row of the history.
    """

    inputs: tuple[str, ...] = ("logits",)
    needs: tuple[str, ...] = ()
    extra_outputs: int = 0
    exclusive: bool = True
    accepts_unknown: bool = False

    forward: Callable[..., Tensor]

    def __init__(self) -> None:
        super().__init__()
        self._sample_state: list[str] = []
        self.diagnostics: dict[str, float] = {}

    def register_sample_state(self, name: str, value: Tensor) -> None:
        """Add a buffer with one row per training sample: in the checkpoint, not in the saved model."""
        self.register_buffer(name, value)
        self._sample_state.append(name)

    def make_head(self, in_features: int, num_classes: int) -> nn.Module:
        """The layer that turns features ``(N, in_features)`` into ``(N, num_classes + extra_outputs)``."""
        return nn.Linear(in_features, num_classes + self.extra_outputs)

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Called once before the first step, and before a saved state is loaded, with what is known of the data.

        Args:
            num_samples: the size of the training set.
            class_counts: ``(C,)`` observed (perhaps wrong) labels per class.
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities ``(N, C, d...)`` of logits ``(N, C + extra_outputs, d...)``, in float32 or better."""
        return at_least_float32(logits).softmax(1)

    def unknown_score(self, logits: Tensor) -> Tensor:
        """How likely the sample is none of the classes ``(N, d...)``, higher = more likely: 1 - max probability."""
        return 1 - self.probabilities(logits).amax(1)

    def label_score(self, logits: Tensor, target: Tensor) -> Tensor:
        """How likely the given label is wrong, higher = more likely.

        ``(N, d...)``: 1 - p of the given label. Where the probabilities don't sum to 1, ``(N, C, d...)``: each
        class's distance ``|p - y|`` from what was given. Samples without a label (-100, and -1 where the classes
        exclude each other) get NaN.
        """
        p = self.probabilities(logits)
        if self.exclusive:
            return 1 - gather_label(p, target)
        return label_distance(p, target)


def gather_label(values: Tensor, target: Tensor) -> Tensor:
    """The entry of ``values`` ``(N, C, d...)`` at each label ``(N, d...)``; NaN where the label is -1 or -100."""
    target = target.long()
    missing = (target == IGNORE_INDEX) | (target == UNKNOWN_CLASS)
    given = values.gather(1, target.masked_fill(missing, 0).unsqueeze(1)).squeeze(1)
    return given.masked_fill(missing, torch.nan)


def label_distance(probabilities: Tensor, target: Tensor) -> Tensor:
    """``|p - y|`` for each class.

    Labels are indices ``(N, d...)``, -1 for none of the classes, or ``(N, C, d...)`` of 0 to 1; -100 is not known.
    """
    if target.shape == probabilities.shape:
        distance = (probabilities - target.to(probabilities.dtype)).abs()
        return distance.masked_fill(target == IGNORE_INDEX, torch.nan)
    target = target.long()
    missing = target == IGNORE_INDEX
    num_classes = probabilities.shape[1]
    given = F.one_hot(target.masked_fill(missing, UNKNOWN_CLASS) + 1, num_classes + 1)[..., 1:].movedim(-1, 1)
    return (probabilities - given).abs().masked_fill(missing.unsqueeze(1), torch.nan)


class Combined(Objective):
    """A weighted sum of objectives; the first reads the outputs.

    ``loss = sum_k weight_k * objective_k``. Head, probabilities and scores are the first term's; every term gets the
    outputs and columns that it asks for.

    Args:
        terms: pairs ``(objective, weight)``.

    Raises:
        ValueError: there is no term, the first takes no logits, or terms that take logits disagree on how many
            outputs they add.

    >>> from catchment import CrossEntropy
    >>> both = Combined([(CrossEntropy(), 1.0), (CrossEntropy(), 0.5)])
    >>> logits, target = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    >>> round(both(logits, target).item(), 4)  # 1.5 * log(3)
    1.6479
    """

    def __init__(self, terms: Sequence[tuple[Objective, float]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("Combined got no terms: give pairs (objective, weight)")
        self.terms = nn.ModuleList(objective for objective, _ in terms)
        self.weights = tuple(float(weight) for _, weight in terms)
        first = self._objectives()[0]
        if "logits" not in first.inputs:
            raise ValueError("the first term reads the outputs, so it must take logits: put such an objective first")
        for objective in self._objectives():
            if "logits" in objective.inputs and objective.extra_outputs != first.extra_outputs:
                raise ValueError(
                    f"{type(first).__name__} adds {first.extra_outputs} outputs and {type(objective).__name__} "
                    f"{objective.extra_outputs}: combine objectives that agree on their outputs"
                )
        self.inputs = tuple(dict.fromkeys(name for term in self._objectives() for name in term.inputs))
        self.needs = tuple(dict.fromkeys(name for term in self._objectives() for name in term.needs))
        self.extra_outputs = first.extra_outputs
        self.exclusive = first.exclusive
        self.accepts_unknown = all(term.accepts_unknown for term in self._objectives())

    def _objectives(self) -> list[Objective]:
        return [term for term in self.terms if isinstance(term, Objective)]

    def forward(self, *outputs_and_target: Tensor, **columns: Tensor) -> Tensor:
        """The weighted sum of the terms' losses."""
        *outputs, target = outputs_and_target
        by_name = dict(zip(self.inputs, outputs, strict=True))
        losses = [
            weight * term(*(by_name[name] for name in term.inputs), target, **{k: columns[k] for k in term.needs})
            for term, weight in zip(self._objectives(), self.weights, strict=True)
        ]
        return torch.stack(losses).sum(0)

    def make_head(self, in_features: int, num_classes: int) -> nn.Module:
        """The first term's head."""
        return self._objectives()[0].make_head(in_features, num_classes)

    def setup(self, *, num_samples: int, class_counts: Tensor) -> None:
        """Set up every term."""
        for term in self._objectives():
            term.setup(num_samples=num_samples, class_counts=class_counts)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The first term's probabilities."""
        return self._objectives()[0].probabilities(logits)

    def unknown_score(self, logits: Tensor) -> Tensor:
        """The first term's score."""
        return self._objectives()[0].unknown_score(logits)

    def label_score(self, logits: Tensor, target: Tensor) -> Tensor:
        """The first term's score."""
        return self._objectives()[0].label_score(logits, target)


class Model(nn.Module):
    """A network and its objective as one thing: compiled, distributed, checkpointed and saved together.

    Args:
        net: ``x -> {"features": (N, D), "logits": (N, C + extra_outputs)}``.
        objective: the loss, and how to read the logits.
    """

    def __init__(self, net: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.net = net
        self.objective = objective

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch with "inputs", "target" and the columns that the objective needs."""
        outputs = self.net(batch["inputs"])
        loss: Tensor = self.objective(
            *(outputs[name] for name in self.objective.inputs),
            batch["target"],
            **{name: batch[name] for name in self.objective.needs},
        )
        return loss

    def inference_state(self) -> dict[str, Tensor]:
        """The state a saved model needs: all but the objective's per-sample training state."""
        per_sample = {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            if isinstance(module, Objective)
            for name in module._sample_state
        }
        return {name: value for name, value in self.state_dict().items() if name not in per_sample}

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``inference_state`` gave; a missing or unexpected entry is a ValueError."""
        expected = self.inference_state().keys()
        if expected != state.keys():
            differing = sorted(expected ^ state.keys())
            raise ValueError(f"the saved model does not fit this one: {', '.join(differing[:5])} differ")
        self.load_state_dict(dict(state), strict=False)


@dataclass(frozen=True)
class Method:
    """What there is to know about a method, said once, beside its code.

    Args:
        name: on the command line, in kebab-case.
        cls: the Objective.
        paper: authors, title, venue.
        year: of publication.
        url: of the paper.
        formula: per sample, in plain text.
        purpose: what it is for, in a few words.
        presets: published settings per data set: ``{"objective": {...}, "training": {...}}``.
        make: makes the objective from parameters by keyword, where the name stands for a combination; None: ``cls``.
    """

    name: str
    cls: type[Objective]
    paper: str
    year: int | None
    url: str
    formula: str
    purpose: str
    presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    make: Callable[..., Objective] | None = None
