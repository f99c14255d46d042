import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from catchment.data import KNOWN, load_data


def test_digits_are_the_published_ones_in_the_stated_split():
    images, labels = load_digits(return_X_y=True)
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    for part, index in zip(load_data("digits", seed=5), rows, strict=True):
        assert part.ids == tuple(str(row) for row in index)
        np.testing.assert_array_equal(part.labels, labels[index])
        np.testing.assert_array_equal(part.clean_labels, labels[index])
        np.testing.assert_allclose(part.inputs.reshape(-1, 64) * (16 / 255), images[index], atol=16 / 255 / 2)
        assert part.inputs.dtype == np.uint8
        assert part.inputs.max() == 255
        assert part.class_names == tuple("0123456789")


def test_known_record_states_what_is_loaded():
    info = KNOWN["digits"].info
    train, test = load_data("digits")
    assert (info.classes, info.train, info.test) == (train.num_classes, len(train), len(test)) == (10, 1437, 360)


def test_digits_resized_on_request():
    train, _ = load_data("digits", image_size=16)
    assert train.inputs.shape == (1437, 16, 16, 1)


def test_columns_cannot_be_dropped_from_digits():
    with pytest.raises(ValueError, match=r"only .csv and .parquet have columns to drop"):
        load_data("digits", drop_columns=["a"])
