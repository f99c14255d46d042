"""Data sets: known ones by name, and one's own from folders, arrays and tables."""

from catchment.data.dataset import IGNORE_INDEX, UNKNOWN_CLASS, DataInfo, Dataset, Splits
from catchment.data.input_format import InputFormat
from catchment.data.load import KNOWN, load_data, load_inputs

__all__ = [
    "IGNORE_INDEX",
    "KNOWN",
    "UNKNOWN_CLASS",
    "DataInfo",
    "Dataset",
    "InputFormat",
    "Splits",
    "load_data",
    "load_inputs",
]
