"""Multi-label tables in Mulan's format: an ARFF file of attributes and rows, and an XML file that names the labels."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from catchment.data.dataset import Dataset, Splits
from catchment.data.known import DataInfo, KnownSet, RemoteFile
from catchment.data.labels import HELD_OUT, shorten

PAGE = "http://mulan.sourceforge.net/datasets-mlc.html"
_REPOSITORY = "https://raw.githubusercontent.com/tsoumakas/mulan/master/data/multi-label"
_NAMESPACE = "http://mulan.sourceforge.net/labels"

_QUOTED = r"""'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)\""""
_ATTRIBUTE = re.compile(
    rf"""@attribute\s+(?:{_QUOTED}|(?P<plain>[^\s'"{{}},%][^\s{{}},]*+))(?:\s+|(?={{))(?P<type>{{.*}}|\S+)""",
    re.IGNORECASE,
)
_FIELD = re.compile(rf"""\s*(?:{_QUOTED}|(?P<plain>[^'",{{}}]*?))\s*(?P<end>,|$)""")
_SPARSE_FIELD = re.compile(rf"""\s*(?P<index>[0-9]+)\s+(?:{_QUOTED}|(?P<plain>[^'",{{}}]*?))\s*(?P<end>,|$)""")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = float(np.finfo(np.float32).max)
_ESCAPED = re.compile(r"\\(.)")
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class Attribute:
    """A column of an ARFF file.

    Args:
        name: without quotes and escapes.
        values: what a nominal attribute may be, in the order of its declaration; None for a number.
    """

    name: str
    values: tuple[str, ...] | None

    @property
    def is_binary(self) -> bool:
        """Whether it is nominal with the values 0 and 1."""
        return self.values is not None and sorted(self.values) == ["0", "1"]


@dataclass(frozen=True)
class Arff:
    """What an ARFF file holds.

    Args:
        path: of the file.
        attributes: its columns.
        values: float32 ``(N, number of attributes)``: numbers; of nominal attributes, positions in ``values``; NaN
            where a value is missing.
    """

    path: Path
    attributes: tuple[Attribute, ...]
    values: NDArray[np.float32]


def read_arff(path: Path) -> Arff:
    """Reads an ARFF file of numeric and nominal attributes, with dense or sparse rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't in that format, or is cut off; names the line.
    """
    lines = _lines(path)
    attributes = _read_header(path, lines)
    reader = _RowReader(path, attributes)
    rows = [reader.read(number, text) for number, text in lines]
    if not rows:
        raise ValueError(f"{path}: there are no rows after @data: is it cut off?")
    return Arff(path, attributes, np.stack(rows))


def read_label_names(path: Path) -> tuple[str, ...]:
    """The names of the labels in a Mulan XML file, in its order, those nested in others included.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't such a file, or it has a document type declaration (entities could blow it up).
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        root = ElementTree.fromstring(_read_bytes(path), parser)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: encodings it doesn't know
        raise ValueError(f"{path}: this is no complete XML file ({error}): get it again from {PAGE}") from error
    except _DoctypeError as error:
        raise ValueError(
            f"{path}: it has a document type declaration (<!DOCTYPE>), which Mulan's files don't: remove it"
        ) from error
    if _local_name(root) != "labels":
        raise ValueError(f"{path}: its root is <{_local_name(root)}>, not <labels>: give the XML file beside the ARFF")
    names = tuple(element.get("name", "") for element in root.iter() if _local_name(element) == "label")
    if not names:
        raise ValueError(f"{path}: it names no labels: get it again from {PAGE}")
    if "" in names:
        raise ValueError(f"{path}: label {names.index('') + 1} has no name: give each <label> one")
    _refuse_twice(path, "label", names)
    return names


def read_mulan(
    train: Path, test: Path | None, labels: Path, *, name: str | None = None, leading_ids: int = 0
) -> Splits:
    """Reads a multi-label table.

    Classes are in the order of the ARFF file. Features are float32: a number or a nominal ``{0,1}`` is one column, any
    other nominal attribute one column of 0 and 1 for each of its values, called ``NAME=VALUE``. Missing values become
    the mean of their column over the training part.

    Args:
        train: the ARFF file of the training part.
        test: that of the test part; None holds out 20 % of ``train``, drawn once and for all.
        labels: the XML file.
        name: of the data set; that of the XML file if not given.
        leading_ids: how many attributes at the front identify a row and are no features.

    Returns:
        Both parts: inputs float32 ``(N, D)``, labels uint8 ``(N, K)``; ids are row numbers in the file, from 0.

    Raises:
        FileNotFoundError: a file isn't there.
        ValueError: a file isn't in the format, the files don't fit together, or a label's value is missing.
    """
    label_names = read_label_names(labels)
    parts = [read_arff(train)] if test is None else [read_arff(train), read_arff(test)]
    attributes = parts[0].attributes
    if test is not None:
        _check_same(parts[0], parts[1], leading_ids)
    is_label = _find_labels(train, attributes, labels, label_names)
    if is_label[:leading_ids].any():
        raise ValueError(f"{train}: {attributes[0].name!r} is named as a label, but identifies rows: check {labels}")
    columns = [position for position in range(leading_ids, len(attributes)) if not is_label[position]]
    if not columns:
        raise ValueError(f"{train}: all its attributes are labels: give a file that has features too")

    class_names = tuple(attributes[position].name for position in np.flatnonzero(is_label))
    feature_names = tuple(name for position in columns for name in _feature_names(attributes[position]))
    notes = []
    if class_names != label_names:
        notes.append(f"classes are in the order of {train.name}; {labels.name} lists them in another")
    if leading_ids:
        left_out = shorten(attribute.name for attribute in attributes[:leading_ids])
        notes.append(f"left out {left_out}, which identifies rows")

    datasets = []
    for part in parts:
        datasets.append(
            Dataset(
                name=labels.stem if name is None else name,
                inputs=_features(part, columns),
                labels=_multi_hot(part, is_label),
                class_names=class_names,
                ids=tuple(str(row) for row in range(len(part.values))),
                feature_names=feature_names,
                notes=tuple(notes),
            )
        )
    if test is None:
        datasets = _hold_out(datasets[0])
    return _filled(Splits(*datasets))


@dataclass(frozen=True)
class _Published:
    """What is published of a set: rows of both parts (all in the first where there is no split), and so on."""

    train: int
    test: int
    attributes: int
    labels: int
    topic: str
    stem: str = ""
    leading_ids: int = 0


_PUBLISHED = {
    "scene": _Published(1211, 1196, 294, 6, "photographs"),
    "yeast": _Published(1500, 917, 103, 14, "genes"),
    "emotions": _Published(391, 202, 72, 6, "music"),
    "flags": _Published(129, 65, 19, 7, "flags of countries"),
    "birds": _Published(322, 323, 260, 19, "sounds of birds"),
    "cal500": _Published(502, 0, 68, 174, "music"),
    "genbase": _Published(463, 199, 1186, 27, "proteins", leading_ids=1),
    "medical": _Published(333, 645, 1449, 45, "clinical text"),
    "enron": _Published(1123, 579, 1001, 53, "e-mail"),
    "bibtex": _Published(4880, 2515, 1836, 159, "bibliographic entries"),
    "corel5k": _Published(4500, 500, 499, 374, "photographs", stem="Corel5k"),
}


def read_mulan_set(folder: Path, name: str) -> Splits:
    """Reads a known set from the data folder, as :func:`read_mulan` does.

    It lies in ``NAME/`` or ``multilabel/NAME/``; capitals don't matter. Training and test file are taken where they
    are there, sparse ones too, else the one file of all rows.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: a file isn't in the format, or the files don't fit together.
    """
    found = _find_set(folder, name)
    if found is None:
        raise FileNotFoundError(
            f"{folder}: {name} isn't there: run catchment fetch {name}, or get {name}.xml and its .arff files "
            f"from {PAGE} and put them in {folder / name}"
        )
    published = _PUBLISHED[name]
    train, test = read_mulan(*found, name=name, leading_ids=published.leading_ids)
    expected = (published.train + published.test, published.labels)
    given = (len(train) + len(test), train.num_classes)
    if given != expected:
        note = f"{given[0]} rows and {given[1]} labels, where {expected[0]} and {expected[1]} are published"
        train = replace(train, notes=(*train.notes, note))
    return Splits(train, test)


def _find_set(folder: Path, name: str) -> tuple[Path, Path | None, Path] | None:
    """Files of the training part (or of all rows), of the test part, and of the label names."""
    for parent in (folder, folder / "multilabel"):
        place = _entries(parent).get(name)
        files = _entries(place) if place is not None and place.is_dir() else {}
        labels = files.get(f"{name}.xml")
        if labels is None:
            continue
        for train, test in (
            (f"{name}-train.arff", f"{name}-test.arff"),
            (f"{name}-train-sparse.arff", f"{name}-test-sparse.arff"),
        ):
            if train in files and test in files:
                return files[train], files[test], labels
        for whole in (f"{name}.arff", f"{name}-sparse.arff"):
            if whole in files:
                return files[whole], None, labels
    return None


def _entries(folder: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: get it from {PAGE}")
    return path.read_bytes()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, stripped, without empty ones and comments."""
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The format states no encoding; of its older files, it is Latin-1.
        text = content.decode("latin-1")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        line = line.strip()
        if line and not line.startswith("%"):
            yield number, line


def _read_header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[Attribute, ...]:
    number, first = next(lines, (1, ""))
    if not first.lower().startswith("@relation"):
        raise ValueError(f"{path}, line {number}: there is no @relation: is it an ARFF file?")
    attributes: list[Attribute] = []
    for number, line in lines:
        if line.lower() == "@data":
            if not attributes:
                raise ValueError(f"{path}, line {number}: there are no attributes before @data: is it an ARFF file?")
            _refuse_twice(path, "attribute", [attribute.name for attribute in attributes])
            return tuple(attributes)
        attributes.append(_read_attribute(path, number, line))
    raise ValueError(f"{path}: there is no @data: is it cut off?")


def _read_attribute(path: Path, number: int, line: str) -> Attribute:
    match = _ATTRIBUTE.fullmatch(line)
    if match is None:
        raise ValueError(
            f"{path}, line {number}: {line[:60]!r} is no line of an ARFF header: write @attribute NAME TYPE"
        )
    name, kind = _unquoted(match), match["type"]
    if kind.lower() in ("numeric", "real", "integer"):
        return Attribute(name, None)
    if not kind.startswith("{"):
        raise ValueError(
            f"{path}, line {number}: attribute {name!r} is of type {kind!r}: "
            "only numeric and nominal ({a,b,...}) attributes can be read"
        )
    values = _split(path, number, kind[1:-1])
    if None in values:
        raise ValueError(f"{path}, line {number}: '?' can't be a value of attribute {name!r}: quote or rename it")
    named = tuple(value for value in values if value is not None)
    if len(set(named)) < len(named):
        raise ValueError(f"{path}, line {number}: attribute {name!r} declares a value twice: remove one")
    return Attribute(name, named)


def _unquoted(match: re.Match[str]) -> str:
    if match["plain"] is not None:
        return match["plain"]
    quoted = match["single"] if match["single"] is not None else match["double"]
    return _ESCAPED.sub(lambda escape: _CONTROL.get(escape[1], escape[1]), quoted)


def _split(path: Path, number: int, text: str) -> list[str | None]:
    """Values separated by commas, without quotes and escapes; None for a missing one."""
    return [value for _, value in _fields(path, number, text, _FIELD)]


def _fields(path: Path, number: int, text: str, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], str | None]]:
    position, end = 0, ","
    while end == ",":
        match = pattern.match(text, position)
        if match is None or match["plain"] == "":
            where = text[position : position + 40].strip()
            raise ValueError(f"{path}, line {number}: {where!r} can't be read as a value: is the line cut off?")
        position, end = match.end(), match["end"]
        yield match, None if match["plain"] == "?" else _unquoted(match)


class _RowReader:
    """Reads rows of values, dense and sparse."""

    def __init__(self, path: Path, attributes: tuple[Attribute, ...]) -> None:
        self.path, self.attributes = path, attributes
        self.codes = [
            None if attribute.values is None else {value: code for code, value in enumerate(attribute.values)}
            for attribute in attributes
        ]
        self.converters: list[Callable[[str], float]] = [
            float if codes is None else codes.__getitem__ for codes in self.codes
        ]

    def read(self, number: int, text: str) -> NDArray[np.float32]:
        if text.startswith("{"):
            return self._read_sparse(number, text)
        row = self._read_plain(text)
        return self._read_dense(number, text) if row is None else row

    def _read_plain(self, text: str) -> NDArray[np.float32] | None:
        """The way that nearly all rows go, quickly; None where something in it needs a closer look."""
        # float() takes 1_000 and digits of other scripts, which are no numbers here.
        if not text.isascii() or "_" in text:
            return None
        fields = text.split(",")
        if len(fields) != len(self.converters):
            return None
        try:
            values = [convert(field) for convert, field in zip(self.converters, fields, strict=True)]
        except (KeyError, ValueError):
            return None
        row = _single_precision(values)
        return row if np.isfinite(row).all() else None

    def _read_dense(self, number: int, text: str) -> NDArray[np.float32]:
        fields = _split(self.path, number, text)
        if len(fields) != len(self.attributes):
            raise ValueError(
                f"{self.path}, line {number}: {len(fields)} values for {len(self.attributes)} attributes: "
                f"is it cut off? get it again from {PAGE}"
            )
        return _single_precision([self._value(number, position, field) for position, field in enumerate(fields)])

    def _read_sparse(self, number: int, text: str) -> NDArray[np.float32]:
        if not text.endswith("}"):
            raise ValueError(f"{self.path}, line {number}: the row has no '}}' at its end: is it cut off?")
        # What isn't listed is 0, or the first value of a nominal attribute, whose position is 0.
        row = np.zeros(len(self.attributes), dtype=np.float32)
        body, last = text[1:-1].strip(), -1
        if not body:
            return row
        for match, field in _fields(self.path, number, body, _SPARSE_FIELD):
            position = int(match["index"])
            if not last < position < len(row):
                raise ValueError(
                    f"{self.path}, line {number}: index {position} after {last} in a row of {len(row)} attributes: "
                    "indices run upwards from 0"
                )
            row[position] = self._value(number, position, field)
            last = position
        return row

    def _value(self, number: int, position: int, field: str | None) -> float:
        if field is None:
            return math.nan
        codes = self.codes[position]
        if codes is None:
            value = float(field) if _NUMBER.fullmatch(field) else math.nan
            if not abs(value) <= _LARGEST:
                self._refuse(number, position, field, "no finite number")
            return value
        if field not in codes:
            self._refuse(number, position, field, f"none of its values ({shorten(codes)})")
        return codes[field]

    def _refuse(self, number: int, position: int, field: str, what: str) -> NoReturn:
        name = self.attributes[position].name
        raise ValueError(f"{self.path}, line {number}: {field!r} of attribute {name!r} is {what}: correct it")


def _single_precision(values: list[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)


class _DoctypeError(Exception):
    """A document type declaration where there should be none."""


class _NoDoctype(ElementTree.TreeBuilder):
    """Stops before a document type declaration is read, so that no entity is ever declared."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise _DoctypeError


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{_NAMESPACE}}}")


def _refuse_twice(path: Path, what: str, names: list[str] | tuple[str, ...]) -> None:
    distinct, counts = np.unique(np.array(names, dtype=np.str_), return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{path}: two {what}s are called {shorten(distinct[counts > 1])}: rename one")


def _check_same(train: Arff, test: Arff, leading_ids: int) -> None:
    here, there = train.attributes[leading_ids:], test.attributes[leading_ids:]
    if len(here) != len(there):
        raise ValueError(
            f"{test.path}: {len(test.attributes)} attributes, but {train.path.name} has {len(train.attributes)}: "
            "give two files of one data set"
        )
    for one, other in zip(here, there, strict=True):
        if one != other:
            raise ValueError(
                f"{test.path}: attribute {other.name!r} isn't declared like {one.name!r} in {train.path.name}: "
                "give two files of one data set"
            )


def _find_labels(
    path: Path, attributes: tuple[Attribute, ...], xml: Path, label_names: tuple[str, ...]
) -> NDArray[np.bool_]:
    known = {attribute.name: attribute for attribute in attributes}
    missing = [name for name in label_names if name not in known]
    if missing:
        raise ValueError(
            f"{xml}: no attribute of {path.name} is called {shorten(missing)}: give the XML file beside it"
        )
    other = [name for name in label_names if not known[name].is_binary]
    if other:
        raise ValueError(f"{path}: label {shorten(other)} isn't declared as {{0,1}}: declare it so")
    return np.isin([attribute.name for attribute in attributes], label_names)


def _feature_names(attribute: Attribute) -> list[str]:
    if attribute.values is None or attribute.is_binary:
        return [attribute.name]
    return [f"{attribute.name}={value}" for value in attribute.values]


def _features(arff: Arff, columns: list[int]) -> NDArray[np.float32]:
    """``(N, D)``, NaN where a value is missing."""
    blocks: list[NDArray[Any]] = []
    for position in columns:
        attribute, values = arff.attributes[position], arff.values[:, position, None]
        if attribute.values is None:
            blocks.append(values)
        elif attribute.is_binary:
            blocks.append(values if attribute.values[0] == "0" else 1 - values)
        else:
            one_hot = values == np.arange(len(attribute.values))
            blocks.append(np.where(np.isnan(values), np.float32(np.nan), one_hot.astype(np.float32)))
    return np.concatenate(blocks, axis=1, dtype=np.float32)


def _multi_hot(arff: Arff, is_label: NDArray[np.bool_]) -> NDArray[np.uint8]:
    positions = np.flatnonzero(is_label)
    codes = arff.values[:, positions]
    row, column = (found[:1] for found in np.nonzero(np.isnan(codes)))
    if row.size:
        name = arff.attributes[positions[column[0]]].name
        raise ValueError(
            f"{arff.path}: row {row[0] + 1} after @data has no value for label {name!r}: give it one, or remove the row"
        )
    starts_with_one = [(arff.attributes[position].values or "0")[0] == "1" for position in positions]
    return (codes.astype(np.uint8) ^ np.array(starts_with_one, dtype=np.uint8)).astype(np.uint8)


def _hold_out(dataset: Dataset) -> list[Dataset]:
    order = np.random.default_rng(0).permutation(len(dataset))
    count = math.ceil(HELD_OUT * len(dataset))
    if count == len(dataset):
        raise ValueError(f"{dataset.name}: one row can't be split into training and test part: give more")
    noted = replace(dataset, notes=(*dataset.notes, "there is no test file, so 20 % of the rows are held out, seed 0"))
    return [noted.select(np.sort(order[count:])), dataset.select(np.sort(order[:count]))]


def _filled(splits: Splits) -> Splits:
    """Missing values replaced by the mean of their column over the training part."""
    train, test = splits
    missing = [np.isnan(part.inputs) for part in splits]
    columns = np.flatnonzero(missing[0].any(axis=0) | missing[1].any(axis=0))
    if not columns.size:
        return splits
    assert train.feature_names is not None
    if missing[0].all(axis=0).any():
        names = shorten(train.feature_names[column] for column in np.flatnonzero(missing[0].all(axis=0)))
        raise ValueError(f"{train.name}: {names} has no value in any row of the training part: remove the attribute")
    means = np.nanmean(train.inputs[:, columns], axis=0, dtype=np.float64)
    for part in splits:
        part.inputs[:, columns] = np.where(np.isnan(part.inputs[:, columns]), means, part.inputs[:, columns])
    names = shorten(train.feature_names[column] for column in columns)
    rows = " and ".join(
        f"{int(gaps.any(axis=1).sum())} {part}" for gaps, part in zip(missing, ("training", "test"), strict=True)
    )
    note = f"missing values in {rows} rows became the mean of the training part, in {names}"
    return Splits(replace(train, notes=(*train.notes, note)), test)


def _known(name: str, published: _Published) -> KnownSet:
    stem = published.stem or name
    suffixes = ("-train", "-test") if published.test else ("",)
    files = [f"{stem}.xml", *(f"{stem}{suffix}.arff" for suffix in suffixes)]
    # 20 % of a set without a split of its own is held out.
    test = published.test or math.ceil(HELD_OUT * published.train)
    return KnownSet(
        info=DataInfo(
            name=name,
            kind="multi-label table",
            classes=published.labels,
            train=published.train + published.test - test,
            test=test,
            noise="none known",
            licence="none stated; cite the paper that Mulan names",
            where=PAGE,
            layout=f"{name}/ or multilabel/{name}/ with {', '.join(files)}",
        ),
        read=lambda folder, variant: read_mulan_set(folder, name),
        find=lambda folder: None if (found := _find_set(folder, name)) is None else found[2].parent,
        downloads=tuple(RemoteFile(url=f"{_REPOSITORY}/{name}/{file}", to=f"{name}/{file}") for file in files),
    )


SETS = tuple(_known(name, published) for name, published in _PUBLISHED.items())
