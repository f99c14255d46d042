"""The objectives in other people's training loops; one short file for each framework, which is imported there only."""

from catchment.objective import Objective


def check_plain(objective: Objective) -> Objective:
    """The objective itself, if a loop that knows of logits and labels alone can train it.

    Raises:
        ValueError: it takes features or further columns, which only ``catchment.training.train`` gives it.
    """
    beyond = [*(name for name in objective.inputs if name != "logits"), *objective.needs]
    if beyond:
        raise ValueError(f"{type(objective).__name__} needs {', '.join(beyond)}: train it by catchment.training.train")
    return objective
