"""Suspect labels: score, rank, review, clean."""

from catchment.audit.cleaning import Decision, decide_all, read_decisions, write_cleaned
from catchment.audit.confident import ConfidentLearning, WrongLabels, confident_learning, confident_margin
from catchment.audit.evidence import Evidence, Trajectory, from_file, from_run, one_run, out_of_fold
from catchment.audit.mapped import MappedArray, read_array
from catchment.audit.neighbours import nearest_neighbours
from catchment.audit.review import write_review
from catchment.audit.runner import Audit, AuditConfig, apply_decisions, audit, compare_scores, run_audit
from catchment.audit.scores import disagreement, loss_of_labels, normalised_margin, self_confidence
from catchment.audit.suspects import SCORES, Suspects, suggest, write_suspects

__all__ = [
    "SCORES",
    "Audit",
    "AuditConfig",
    "ConfidentLearning",
    "Decision",
    "Evidence",
    "MappedArray",
    "Suspects",
    "Trajectory",
    "WrongLabels",
    "apply_decisions",
    "audit",
    "compare_scores",
    "confident_learning",
    "confident_margin",
    "decide_all",
    "disagreement",
    "from_file",
    "from_run",
    "loss_of_labels",
    "nearest_neighbours",
    "normalised_margin",
    "one_run",
    "out_of_fold",
    "read_array",
    "read_decisions",
    "run_audit",
    "self_confidence",
    "suggest",
    "write_cleaned",
    "write_review",
    "write_suspects",
]
