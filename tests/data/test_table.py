import re
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from catchment.data import InputFormat, load_data, load_inputs
from catchment.data.table import read_table

GOOD = "height,label,weight\n1,cat,2.5\n3,dog,-4e1\n5,cat,6\n7,dog,8\n"


@pytest.fixture
def csv(tmp_path):
    def write(text, name="own.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding, newline="")
        return tmp_path / name

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(columns, names=None, name="own.parquet"):
        table = pyarrow.table(columns) if names is None else pyarrow.table(columns, names=names)
        pyarrow.parquet.write_table(table, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_values(csv, encoding, newline):
    dataset = read_table(csv(GOOD.replace("\n", newline), encoding=encoding))
    assert dataset.name == "own"
    assert dataset.feature_names == ("height", "weight")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ids == ("0", "1", "2", "3")
    assert dataset.inputs.dtype == np.float32
    np.testing.assert_array_equal(dataset.inputs, [[1, 2.5], [3, -40], [5, 6], [7, 8]])
    np.testing.assert_array_equal(dataset.labels, [0, 1, 0, 1])


def test_csv_quotes_spaces_blank_lines_and_numeric_labels(csv):
    text = '"a, b", label \n" 1 ", 10\n\n2,9\n3,10\n4, -1\n'
    dataset = read_table(csv(text))
    assert dataset.feature_names == ("a, b",)
    assert dataset.class_names == ("-1", "9", "10")
    np.testing.assert_array_equal(dataset.labels, [2, 1, 2, 0])
    np.testing.assert_array_equal(dataset.inputs[:, 0], [1, 2, 3, 4])


def test_csv_longer_than_one_chunk(csv):
    rows = 1000
    text = "a,label,b\n" + "".join(f"{row},{row % 3},{-row / 4}\n" for row in range(rows))
    dataset = read_table(csv(text))
    np.testing.assert_array_equal(dataset.inputs, np.stack([np.arange(rows), np.arange(rows) / -4], axis=1))
    np.testing.assert_array_equal(dataset.labels, np.arange(rows) % 3)
    with pytest.raises(ValueError, match="line 801, column 'a' holds 'x', not a number"):
        read_table(csv(text.replace("\n799,", "\nx,")))


def test_label_and_dropped_columns(csv):
    path = csv("id,target,x\nr1,u,1\nr2,v,2\nr3,u,3\n")
    dataset = read_table(path, label_column="target", drop_columns=["id"])
    assert dataset.feature_names == ("x",)
    assert dataset.class_names == ("u", "v")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,label\n", "there are no rows below the column names"),
        ("a,label\n1,0\n2,1,3\n", "line 3 has 3 cells, but there are 2 columns"),
        ("a,label\n1,0\n\n2\n", "line 4 has 1 cells"),
        (
            "a,Label\n1,0\n",
            "no label column 'label': did you mean 'Label'.*columns are 'a', 'Label', or .*--label-column",
        ),
        ("a;label\n1;0\n", "no label column 'label': separate the columns with commas"),
        ("a,a,label\n1,1,0\n", "column 'a' is there more than once"),
        (",a,label\n0,1,0\n", r"column 1 has no name.*index=False"),
        ("label\n0\n1\n", "no feature columns are left"),
        ("a,label\n1,0\nred,1\n", "line 3, column 'a' holds 'red', not a number: encode .* --drop-columns a"),
        ("a,label\n1,0\n,1\n", "line 3, column 'a' is empty: fill it in .* --drop-columns a"),
        ("a,label\n1,0\n2,1\nNaN,1\n", "line 4, column 'a' holds nan, not a finite"),
        ("a,label\n-inf,0\n", "line 2, column 'a' holds -inf"),
        ("a,label\n1e300,0\n", r"line 2, column 'a' holds 1e\+300, not a finite 32-bit number"),
        ("a,label\n1,x\n2,\n3,y\n4, \n", "2 rows have no label, the first on line 3: fill in 'label'"),
        ("a,label\n1,x\n2,\n3,y\n", "1 row has no label, on line 3"),
        ("a,label\n1,x\n2,x\n", "only one class, 'x'"),
        ("a,label\n1,x\n2,y\n", "2 classes for 2 samples: is --label-column right"),
        ("a,label\n" + "".join(f"1,{row % 21}\n" for row in range(41)), "21 classes for 41 samples: is --label-column"),
        ("a,label\n1,x\n2,x\n3,y\n", "class 'y' has one sample only.*--test"),
        ('a,label\n"1"2,x\n', "can't be read as .csv"),
        ('"two\nlines",label\n1,x\n\nz,y\n', "line 5, column"),
    ],
)
def test_csv_errors_say_where_and_what_to_do(csv, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_data(csv(text))
    assert "own.csv" in str(raised.value) or "own:" in str(raised.value)


def test_errors_about_dropped_columns(csv):
    path = csv(GOOD)
    with pytest.raises(ValueError, match="no column 'hight' to drop: did you mean 'height'"):
        load_data(path, drop_columns=["hight"])
    with pytest.raises(ValueError, match="the label column 'label' can't be dropped"):
        load_data(path, drop_columns=["label"])
    with pytest.raises(ValueError, match="no feature columns are left"):
        load_data(path, drop_columns=["height", "weight"])


def test_csv_in_another_encoding(csv):
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_data(csv("größe,label\n1,0\n", encoding="utf-16"))


def test_parquet_values_of_every_kind(parquet):
    columns = {
        "float": pyarrow.array([1.5, 2, 3]),
        "int": pyarrow.array([1, 2, 2**60]),
        "bool": pyarrow.array([True, False, True]),
        "text": pyarrow.array(["1", " 2.5", "3e1"]),
        "decimal": pyarrow.array([1, 2, 3]).cast(pyarrow.decimal128(20, 1)),
        "category": pyarrow.array([7, 8, 7]).dictionary_encode(),
        "label": pyarrow.array(["b", "a", "b"]).dictionary_encode(),
        "__index_level_0__": pyarrow.array([100, 101, 102]),
    }
    dataset = read_table(parquet(columns))
    assert dataset.feature_names == ("float", "int", "bool", "text", "decimal", "category")
    np.testing.assert_array_equal(dataset.inputs, [[1.5, 1, 1, 1, 1, 7], [2, 2, 0, 2.5, 2, 8], [3, 2**60, 1, 30, 3, 7]])
    np.testing.assert_array_equal(dataset.labels, [1, 0, 1])


def test_parquet_integer_labels_sort_by_value(parquet):
    dataset = read_table(parquet({"x": [1.0, 2.0, 3.0], "label": [10, 2, 10]}))
    assert dataset.class_names == ("2", "10")
    np.testing.assert_array_equal(dataset.labels, [1, 0, 1])


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ([[1, None], [0, 1]], ["x", "label"], "row 2, column 'x' is empty"),
        ([[1.0, float("inf")], [0, 1]], ["x", "label"], "row 2, column 'x' holds inf"),
        ([["1", "red"], [0, 1]], ["x", "label"], "row 2, column 'x' holds 'red', not a number"),
        ([["1", None], [0, 1]], ["x", "label"], "row 2, column 'x' is empty"),
        ([pyarrow.nulls(2), [0, 1]], ["x", "label"], "row 1, column 'x' is empty"),
        ([pyarrow.array([None, 1], pyarrow.date32()), [0, 1]], ["x", "label"], "row 2, column 'x' holds '1970-01-02'"),
        ([[1, 2, 3], [0.0, None, float("nan")]], ["x", "label"], "2 rows have no label, the first on row 2"),
        ([[1, 2], [0, 1]], ["x", "x"], "column 'x' is there more than once"),
        ([[1, 2], [0, 1]], ["x", "target"], "no label column 'label': the columns are 'x', 'target'"),
        ([pyarrow.array([], "int64"), pyarrow.array([], "int64")], ["x", "label"], "there are no rows in it"),
    ],
)
def test_parquet_errors_say_where_and_what_to_do(parquet, columns, names, message):
    with pytest.raises(ValueError, match=message):
        load_data(parquet(columns, names))


def test_damaged_parquet(tmp_path):
    (tmp_path / "own.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"this .parquet file is damaged") as raised:
        load_data(tmp_path / "own.parquet")
    assert "\n" not in str(raised.value)


def test_parquet_without_pyarrow_names_the_extra(parquet, monkeypatch):
    path = parquet({"x": [1, 2], "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=re.escape('pip install "catchment[data]"')):
        load_data(path)


def test_test_part_finds_columns_by_name(csv):
    train, test = load_data(csv(GOOD), test=csv("extra,weight,label,height\nx,1,dog,2\ny,3,bird,4\n", "new.csv"))
    assert len(train) == 4
    assert test.feature_names == ("height", "weight")
    np.testing.assert_array_equal(test.inputs, [[2, 1], [4, 3]])
    np.testing.assert_array_equal(test.labels, [1, -1])


def test_test_part_needs_labels_and_training_columns(csv):
    path = csv(GOOD)
    with pytest.raises(ValueError, match="no label column 'label'"):
        load_data(path, test=csv("weight,height\n1,2\n", "new.csv"))
    with pytest.raises(ValueError, match=r"column 'height' is missing, which training had.*'weight', 'label'"):
        load_data(path, test=csv("weight,label\n1,cat\n", "new.csv"))
    with pytest.raises(ValueError, match=r"no label in it is one of training's classes \('cat', 'dog'\)"):
        load_data(path, test=csv("weight,height,label\n1,2,0\n", "new.csv"))


FORM = InputFormat("table", (2,), ("height", "weight"), ("0", "1"))


def test_rows_to_predict_for_need_no_labels(csv, parquet):
    dataset = load_inputs(csv("weight,height\n1,2\n3,4\n"), FORM)
    np.testing.assert_array_equal(dataset.inputs, [[2, 1], [4, 3]])
    np.testing.assert_array_equal(dataset.labels, [-100, -100])
    assert dataset.class_names == ("0", "1")

    dataset = load_inputs(parquet({"weight": [1, 2, 3], "height": [4, 5, 6], "label": [1.0, None, 7.0]}), FORM)
    np.testing.assert_array_equal(dataset.labels, [1, -100, -1])

    with pytest.raises(ValueError, match=r"line 2, column 'weight' is empty: fill it in or remove the row$"):
        load_inputs(csv("weight,height\n,2\n"), FORM)


def test_rows_to_predict_for_without_names_must_be_as_wide(csv):
    nameless = InputFormat("table", (2,), None, ("0", "1"))
    np.testing.assert_array_equal(load_inputs(csv("a,b,label\n1,2,1\n"), nameless).inputs, [[1, 2]])
    with pytest.raises(ValueError, match="there are 3 feature columns, but training had 2"):
        load_inputs(csv("a,b,c\n1,2,3\n"), nameless)
