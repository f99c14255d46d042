"""Data sets: known ones by name, and one's own from folders, arrays and tables."""

from catchment.data.dataset import IGNORE_INDEX, UNKNOWN_CLASS, Dataset, Splits
from catchment.data.image_files import ImageFiles
from catchment.data.input_format import InputFormat
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.load import KNOWN, data_folder, is_known, known_set, load_data, load_inputs, not_on_disk

__all__ = [
    "IGNORE_INDEX",
    "KNOWN",
    "UNKNOWN_CLASS",
    "DataInfo",
    "Dataset",
    "ImageFiles",
    "InputFormat",
    "KnownSet",
    "RemoteFile",
    "Splits",
    "data_folder",
    "is_known",
    "known_set",
    "load_data",
    "load_inputs",
    "not_on_disk",
]
