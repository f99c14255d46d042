import json

import numpy as np
import pytest

from catchment.data import Dataset, InputFormat, load_data


def test_format_of_images_and_tables():
    assert InputFormat.of(load_data("digits").train) == InputFormat("image", (8, 8, 1), None, tuple("0123456789"))
    table = Dataset("t", np.zeros((3, 2), np.float32), np.zeros(3, np.int64), ("a",), feature_names=("x", "y"))
    assert InputFormat.of(table) == InputFormat("table", (2,), ("x", "y"), ("a",))


@pytest.mark.parametrize(
    "form",
    [InputFormat("image", (8, 9, 3), None, ("a", "b")), InputFormat("table", (2,), ("x", "y"), ("a", "b"))],
)
def test_format_survives_json(form):
    assert InputFormat.from_dict(json.loads(json.dumps(form.to_dict()))) == form


def test_format_from_a_damaged_record():
    values = InputFormat("table", (2,), None, ("a", "b")).to_dict()
    with pytest.raises(ValueError, match="kind is 'sound': give 'image' or 'table'"):
        InputFormat.from_dict({**values, "kind": "sound"})
    del values["shape"]
    with pytest.raises(ValueError, match="lacks shape"):
        InputFormat.from_dict(values)


def test_format_in_words():
    assert InputFormat("image", (8, 9, 3), None, ()).describe() == "images of 8 x 9 with 3 channels"
    assert InputFormat("table", (2,), None, ()).describe() == "a table of 2 features"
