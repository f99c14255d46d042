import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from published_formats_images import python2_pickle, write_torch_pickle

from catchment.data.pickles import map_array, read_pickle, read_torch_pickle

ARRAYS = {
    "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "numbers": np.array([[1, -2], [3, 4]], dtype=np.int64),
    "big-endian": np.array([1.5, -2.5], dtype=">f4"),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "one": np.array(7),
}


@pytest.mark.parametrize("written", [python2_pickle, lambda content: pickle.dumps(content, protocol=2)])
def test_arrays_of_numbers_are_read_as_they_were_written(tmp_path, written):
    path = tmp_path / "batch"
    path.write_bytes(written(ARRAYS | {"labels": [1, 2], "title": "Käfer"}))
    content = read_pickle(path)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(content[key], array)
        assert content[key].dtype == array.dtype
        assert content[key].shape == array.shape
    assert content["labels"] == [1, 2]
    assert content["title"] in ("Käfer", "Käfer".encode("latin1"))


def test_keys_are_text_whichever_way_they_were_written(tmp_path):
    (tmp_path / "batch").write_bytes(pickle.dumps({b"labels": [1], "data": b"x"}, protocol=2))
    assert read_pickle(tmp_path / "batch") == {"labels": [1], "data": b"x"}


class Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile_pickles(witness):
    command = f"touch {witness}"
    write = f"open({str(witness)!r}, 'w')"
    yield Calls(os.system, command)
    yield Calls(eval, write)
    yield Calls(exec, write)
    yield Calls(io.open, str(witness), "w")
    yield Calls(np.fromfile, str(witness))
    yield Calls(np.save, str(witness), 0)
    nested = {"labels": [1, 2], "data": [{"deep": (Calls(os.system, command),)}]}
    yield nested
    yield Calls(Calls, Calls(os.system, command))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("case", range(8))
def test_hostile_pickles_are_refused_and_nothing_of_them_runs(tmp_path, case, protocol):
    witness = tmp_path / "witness"
    hostile = list(hostile_pickles(witness))[case]
    (tmp_path / "batch").write_bytes(pickle.dumps({"labels": hostile}, protocol=protocol))
    with pytest.raises(ValueError, match=r"batch: this pickle asks for \S+, which no published one does") as raised:
        read_pickle(tmp_path / "batch")
    assert "\n" not in str(raised.value)
    assert "nothing of it was run" in str(raised.value)
    assert not witness.exists()

    write_torch_pickle(tmp_path / "labels.pt", {"worse_label": hostile})
    with pytest.raises(ValueError, match=r"labels.pt: this pickle asks for"):
        read_torch_pickle(tmp_path / "labels.pt")
    assert not witness.exists()


def test_the_hostile_pickles_would_create_a_file(tmp_path):
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'witness'}"), protocol=2))
    assert (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("opcodes", "complaint"),
    [
        (b"cnumpy\nload\n.", "asks for numpy.load"),
        (b"cnumpy.core.multiarray\nscalar\n.", "asks for numpy.core.multiarray.scalar"),
        (b"cnumpy\nndarray\n(K\x05tR.", "broken"),  # an array of five numbers, called for without any
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "asks for text in 'hex'"),
        (b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", "asks for arrays of 'O'"),
        (b"cnumpy\ndtype\nX\x03\x00\x00\x00i4,\x85R.", "asks for arrays of 'i4,'"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(clist\ndict\ntR.", "asks for list.dict"),
        (b"K\x01.", "holds no dictionary"),
        (b"}Pid\n.", "broken"),
    ],
)
def test_what_is_neither_numbers_nor_text(tmp_path, opcodes, complaint):
    (tmp_path / "batch").write_bytes(b"\x80\x02" + opcodes)
    with pytest.raises(ValueError, match=complaint):
        read_pickle(tmp_path / "batch")


def test_a_pickle_cannot_change_what_the_next_one_gets(tmp_path):
    # BUILD with a second half sets attributes: here the function that makes dtypes is given another one to call.
    swap = b"\x80\x02}cnumpy\ndtype\n(N}X\x04\x00\x00\x00callc_codecs\nencode\nstb0."
    (tmp_path / "first").write_bytes(swap)
    assert read_pickle(tmp_path / "first") == {}
    (tmp_path / "next").write_bytes(python2_pickle(ARRAYS))
    np.testing.assert_array_equal(read_pickle(tmp_path / "next")["numbers"], ARRAYS["numbers"])


def test_an_array_that_promises_more_than_it_holds_asks_for_no_memory(tmp_path):
    whole = python2_pickle({"data": np.zeros((2, 3), np.uint8)})
    two, huge = b"J\x02\x00\x00\x00J\x03\x00\x00\x00t", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft"
    assert whole.count(two) == 1
    (tmp_path / "batch").write_bytes(whole.replace(two, huge))
    with pytest.raises(ValueError, match=r"an array of shape \(2147483647, 2147483647\) with 6 bytes"):
        read_pickle(tmp_path / "batch")


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_pickles_that_are_cut_off(tmp_path, length):
    whole = python2_pickle(ARRAYS)
    (tmp_path / "batch").write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"batch: this pickle is broken or cut off \(.*\): download it again"):
        read_pickle(tmp_path / "batch")


def test_archives_of_other_kinds(tmp_path):
    path = tmp_path / "labels.pt"
    write_torch_pickle(path, {"worse_label": np.arange(3)})
    np.testing.assert_array_equal(read_torch_pickle(path)["worse_label"], [0, 1, 2])

    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels.pt: this is not a whole .pt archive .*: download it again"):
            read_torch_pickle(path)
    damaged = bytearray(whole)
    damaged[whole.index(b"worse_label")] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"not a whole .pt archive \(Bad CRC-32"):
        read_torch_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")
    with pytest.raises(ValueError, match="0 members are called data.pkl"):
        read_torch_pickle(path)


def test_torch_writes_what_is_read(tmp_path):
    import torch

    torch.save({"clean_label": np.arange(4), "noisy": [3, 2]}, tmp_path / "labels.pt")
    content = read_torch_pickle(tmp_path / "labels.pt")
    np.testing.assert_array_equal(content["clean_label"], [0, 1, 2, 3])
    assert content["noisy"] == [3, 2]


def test_array_files_that_are_broken_or_hold_objects(tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(FileNotFoundError, match=r"x.npy: there is no such file: fetch it"):
        map_array(path, "fetch it")
    np.save(path, np.arange(5))
    np.testing.assert_array_equal(map_array(path, "fetch it"), np.arange(5))
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:30], b"", whole.replace(b"(5,)", b"(5555555555555,)")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x.npy: this is not a whole .npy file of numbers \(.*\): fetch it"):
            map_array(path, "fetch it")
    np.save(path, np.array([Calls(os.system, "true")], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"not a whole .npy file of numbers"):
        map_array(path, "fetch it")
