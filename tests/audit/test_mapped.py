"""Arrays read from their file a few rows at a time."""

import zipfile

import numpy as np
import pytest

from catchment.audit import MappedArray, read_array
from catchment.audit.mapped import array_names, row_blocks

VALUES = np.arange(60, dtype=np.float32).reshape(20, 3)


def test_npz_and_npy_are_mapped_where_they_lie(tmp_path):
    np.savez(tmp_path / "a.npz", first=np.arange(7), probabilities=VALUES)
    np.save(tmp_path / "a.npy", VALUES)
    for array in (read_array(tmp_path / "a.npz", "probabilities"), read_array(tmp_path / "a.npy")):
        assert isinstance(array, MappedArray)
        assert (array.shape, array.ndim, len(array), array.dtype) == ((20, 3), 2, 20, np.float32)
        assert array[3:7].tolist() == VALUES[3:7].tolist()
        assert array[18:99].tolist() == VALUES[18:].tolist()
        assert array[::5].tolist() == VALUES[::5].tolist()
        assert array[5:5].shape == (0, 3)
        assert array[np.array([4, 0])].tolist() == VALUES[[4, 0]].tolist()
    assert array_names(tmp_path / "a.npz") == ["first", "probabilities"]
    assert array_names(tmp_path / "a.npy") == []


def test_what_is_written_to_a_map_stays_out_of_the_file(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    read_array(tmp_path / "a.npy")[0:2][:] = -1
    assert np.load(tmp_path / "a.npy").tolist() == VALUES.tolist()


def test_rows_come_in_blocks_from_anywhere(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    mapped = read_array(tmp_path / "a.npy")
    for array in (mapped, VALUES, np.asfortranarray(VALUES), np.load(tmp_path / "a.npy", mmap_mode="r")):
        assert [block.tolist() for block in row_blocks(array, 8)] == [
            VALUES[:8].tolist(), VALUES[8:16].tolist(), VALUES[16:].tolist()
        ]  # fmt: skip
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="has become shorter while it was read"):
        list(row_blocks(mapped, 8))


def test_compressed_and_column_by_column_are_read_into_memory(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", p=VALUES)
    np.save(tmp_path / "f.npy", np.asfortranarray(VALUES))
    for array in (read_array(tmp_path / "a.npz", "p"), read_array(tmp_path / "f.npy")):
        assert isinstance(array, np.ndarray)
        assert array.tolist() == VALUES.tolist()


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 broken"])
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: this can't be read .*write it again with numpy\.savez"):
        read_array(path, "p")


def test_a_file_cut_off_and_python_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="it ends too early"):
        read_array(tmp_path / "a.npy")
    np.savez(tmp_path / "o.npz", p=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="p holds Python objects: save numbers"):
        read_array(tmp_path / "o.npz", "p")
    with pytest.raises(KeyError):
        read_array(tmp_path / "o.npz", "q")


def test_members_with_an_extra_field_are_found(tmp_path):
    """numpy writes one of these for members that could be larger than 4 GB."""
    np.save(tmp_path / "p.npy", VALUES)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("p.npy", "w", force_zip64=True) as member:
        member.write((tmp_path / "p.npy").read_bytes())
    array = read_array(tmp_path / "a.npz", "p")
    assert isinstance(array, MappedArray)
    assert array[:].tolist() == VALUES.tolist()
