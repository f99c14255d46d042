import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catchment.data import InputFormat, load_data, load_inputs
from catchment.data.load import load_labelled


def test_missing_sources_name_the_known_sets():
    with pytest.raises(FileNotFoundError, match=r"nowhere/x.csv: there is no such file.*known are .*cifar10, .*digits"):
        load_data("nowhere/x.csv")
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(FileNotFoundError, match=r"missing.npz: there is no such file"):
        load_data("digits", test="missing.npz")


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "data.tsv").write_text("a\tlabel\n")
    with pytest.raises(ValueError, match=r".tsv can't be read: give a folder of class folders, or an .npz, .csv"):
        load_data(tmp_path / "data.tsv")
    (tmp_path / "data").write_text("")
    with pytest.raises(ValueError, match="a file without extension can't be read"):
        load_inputs(tmp_path / "data", InputFormat("table", (1,), None, ("a", "b")))


def test_a_known_name_wins_unless_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_data(Path("digits")).train) == 1437
    Path("digits").mkdir()
    assert len(load_data("digits").train) == 1437
    with pytest.raises(ValueError, match="no class folders"):
        load_data("./digits")
    with pytest.raises(ValueError, match="no class folders"):
        load_data(Path("digits"))


def test_known_set_with_another_test_part(tmp_path):
    np.savez(tmp_path / "new.npz", X=np.full((2, 16, 16, 3), 50, np.uint8), y=np.array([7, 11]))
    train, test = load_data("digits", test=tmp_path / "new.npz")
    assert len(train) == 1437
    np.testing.assert_array_equal(test.inputs, np.full((2, 8, 8, 1), 50))
    np.testing.assert_array_equal(test.labels, [7, -1])


def test_known_set_to_predict_for():
    expected = load_data("digits").test
    same = load_inputs("digits", InputFormat.of(expected))
    np.testing.assert_array_equal(same.inputs, expected.inputs)
    np.testing.assert_array_equal(same.labels, expected.labels)

    fewer = load_inputs("digits", InputFormat("image", (4, 4, 3), None, ("9", "1")))
    assert fewer.inputs.shape == (360, 4, 4, 3)
    np.testing.assert_array_equal(fewer.labels == 0, expected.labels == 9)
    np.testing.assert_array_equal(fewer.labels == 1, expected.labels == 1)

    with pytest.raises(ValueError, match="holds images of 8 x 8 with 1 channel, but the model takes a table"):
        load_inputs("digits", InputFormat("table", (64,), None, ("0", "1")))


def test_kinds_that_the_model_does_not_take(tmp_path):
    with pytest.raises(ValueError, match="a folder of images, but the model takes a table of 2 features"):
        load_inputs(tmp_path, InputFormat("table", (2,), None, ("a", "b")))
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match="this is a table, but the model takes images of 8 x 8 with 3 channels"):
        load_inputs(tmp_path / "t.csv", InputFormat("image", (8, 8, 3), None, ("a", "b")))


def test_reading_data_imports_nothing_heavy_before_it_is_needed():
    code = "import catchment.data, sys; print([m for m in ('sklearn', 'PIL', 'pyarrow', 'pandas') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_a_folder_called_like_a_known_set_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_labelled("digits").notes == ()
    (tmp_path / "digits").mkdir()
    note = "digits is the known data set, not what is called so here: for that, write ./digits"
    assert load_labelled("digits").notes == (note,)
    assert load_labelled("digits", data_dir=tmp_path).notes == ()
