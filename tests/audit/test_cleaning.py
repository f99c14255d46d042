"""Decisions read and applied: each form of data, and nothing that doesn't fit."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catchment.audit import Decision, decide_all, read_decisions, write_cleaned
from catchment.audit.cleaning import COLUMNS, data_fingerprint
from catchment.data import Dataset, load_data
from catchment.data.load import load_labelled

DECISIONS = [Decision(1, "drop"), Decision(2, "relabel", 1), Decision(3, "keep"), Decision(0, "skip")]


def decisions_file(path, dataset, rows, **changes):
    """A file as the page exports it; rows are (row, decision, label)."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row, decision, label in rows:
            given = dataset.class_names[dataset.labels[row]]
            line = {"data": data_fingerprint(dataset), "row": row, "id": dataset.ids[row], "class": "", "given": given}
            writer.writerow(line | {"decision": decision, "label": label} | changes)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, count in (("cat", 3), ("dog", 2)):
        (folder / name / "more").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name / f"{i}.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save(folder / "cat" / "more" / "9.png")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_images(photos, tmp_path):
    before = contents(photos)
    dataset = load_labelled(photos)
    assert dataset.ids == ("cat/0.png", "cat/1.png", "cat/2.png", "cat/more/9.png", "dog/0.png", "dog/1.png")
    decisions = [Decision(0, "relabel", 1), Decision(1, "drop"), Decision(3, "relabel", 1)]
    changed = write_cleaned(str(photos), dataset, decisions, tmp_path / "clean")
    assert changed == {"kept": 5, "dropped": 1, "relabelled": 2}
    assert contents(tmp_path / "clean") == {
        "cat/2.png": before["cat/2.png"],
        "dog/0.png": before["dog/0.png"],
        "dog/1.png": before["dog/1.png"],
        "dog/0-from-cat.png": before["cat/0.png"],
        "dog/more/9.png": before["cat/more/9.png"],
    }
    assert contents(photos) == before
    assert [p.name for p in tmp_path.iterdir()] != []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["photos", "photos/clean", "."])
def test_the_folder_itself_in_it_and_around_it_are_never_written_to(photos, tmp_path, name):
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="which is never written to: choose another"):
        write_cleaned(str(photos), load_labelled(photos), DECISIONS, tmp_path / name, overwrite=True)
    assert contents(tmp_path) == before


def test_a_folder_that_holds_something_is_refused(photos, tmp_path):
    (tmp_path / "clean").mkdir()
    write_cleaned(str(photos), load_labelled(photos), DECISIONS, tmp_path / "clean")
    with pytest.raises(ValueError, match="clean is not an empty folder"):
        write_cleaned(str(photos), load_labelled(photos), DECISIONS, tmp_path / "clean", overwrite=True)


def test_a_table_keeps_its_columns_and_its_text(tmp_path):
    path = tmp_path / "t.csv"
    text = 'name,height,label\n"a, b",1.50,cat\n\nc,2.0,cat\nd,3,cat\ne,4e0,dog\nf,5,dog\n'
    path.write_text(text)
    dataset = load_labelled(path, drop_columns=["name"])
    changed = write_cleaned(str(path), dataset, DECISIONS, tmp_path / "c.csv")
    assert changed == {"kept": 4, "dropped": 1, "relabelled": 1}
    assert (tmp_path / "c.csv").read_text() == 'name,height,label\n"a, b",1.50,cat\nd,3,dog\ne,4e0,dog\nf,5,dog\n'
    assert path.read_text() == text


@pytest.mark.parametrize("labels", [[7, 7, 7, 8, 8], ["cat", "cat", "cat", "dog", "dog"]])
def test_parquet_keeps_its_types(tmp_path, labels):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"x": [1.0, 2, 3, 4, 5], "label": labels, "z": [1, 2, 3, 4, 5]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    dataset = load_labelled(tmp_path / "t.parquet")
    write_cleaned(str(tmp_path / "t.parquet"), dataset, DECISIONS, tmp_path / "c.parquet")
    cleaned = pyarrow.parquet.read_table(tmp_path / "c.parquet")
    assert cleaned.schema == table.schema
    assert cleaned.to_pydict() == {"x": [1, 3, 4, 5], "label": [labels[0], *labels[3:], labels[4]], "z": [1, 3, 4, 5]}


def test_an_npz_keeps_every_array(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "X": np.arange(10, dtype=np.float64).reshape(5, 2),
        "y": np.array(["ox", "ox", "ox", "cow", "cow"]),
        "y_clean": np.array(["ox", "ox", "cow", "cow", "cow"]),
        "class_names": np.array(["ox", "cow", "a long name", "d", "e"]),
        "embedding": np.arange(5.0),
        "note": np.array("five"),
    }
    np.savez(path, **arrays)
    dataset = load_labelled(path)
    write_cleaned(str(path), dataset, [Decision(1, "drop"), Decision(2, "relabel", 2)], tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as cleaned:
        assert cleaned["X"].tolist() == arrays["X"][[0, 2, 3, 4]].tolist()
        assert cleaned["X"].dtype == np.float64
        assert cleaned["y"].tolist() == ["ox", "a long name", "cow", "cow"]
        assert cleaned["y_clean"].tolist() == ["ox", "cow", "cow", "cow"]
        assert cleaned["class_names"].tolist() == arrays["class_names"].tolist()
        assert cleaned["embedding"].tolist() == [0, 2, 3, 4]
        assert cleaned["note"].item() == "five"
    assert load_labelled(tmp_path / "c.npz").class_names == dataset.class_names


def test_a_known_set_becomes_an_npz_that_can_be_trained_on(tmp_path):
    dataset = load_labelled("digits")
    write_cleaned("digits", dataset, [Decision(0, "drop"), Decision(1, "relabel", 9)], tmp_path / "d.npz")
    again = load_labelled(tmp_path / "d.npz")
    assert (len(again), again.labels[0], again.inputs.tolist()) == (1436, 9, dataset.inputs[1:].tolist())
    assert len(load_data(tmp_path / "d.npz").train) == 1148


def test_labels_of_many_classes(tmp_path):
    labels = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8)
    dataset = Dataset("m", np.zeros((3, 2), np.float32), labels, ("sea", "sky"), ids=("0", "1", "2"))
    decisions = [Decision(0, "relabel", 1, 1), Decision(1, "relabel", 0, 1), Decision(2, "drop", None, 0)]
    out = tmp_path / "m.npz"
    changed = write_cleaned("scene", dataset, decisions, out)
    assert changed == {"kept": 2, "dropped": 1, "relabelled": 2}
    with np.load(out) as cleaned:
        assert cleaned["y"].tolist() == [[1, 1], [0, 0]]


def test_names_that_cannot_be_written_to(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,label\n1,a\n2,a\n3,b\n4,b\n5,b\n")
    dataset = load_labelled(path)
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to(path)
    cases = {
        "t.csv": "is the data itself", "link.csv": "is the data itself",
        "c.npz": "does not end in .csv",
        "there.csv": "exists: choose another name for the cleaned data, or add --overwrite",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            write_cleaned(str(path), dataset, DECISIONS, tmp_path / name)
    with pytest.raises(ValueError, match="is the data itself"):
        write_cleaned(str(path), dataset, DECISIONS, path, overwrite=True)
    write_cleaned(str(path), dataset, DECISIONS, tmp_path / "there.csv", overwrite=True)
    assert (tmp_path / "there.csv").read_text() == "x,label\n1,a\n3,b\n4,b\n5,b\n"
    with pytest.raises(ValueError, match="every sample of t would be dropped: keep some"):
        write_cleaned(str(path), dataset, [Decision(row, "drop") for row in range(5)], tmp_path / "none.csv")


def test_all_suspects_at_once():
    from audit.made_up import suspects_of, table

    dataset, p = table(50)
    found = suspects_of(dataset, p, 3)
    assert decide_all(found, "drop") == [Decision(row, "drop") for row in found.rows.tolist()]
    pairs = zip(found.rows.tolist(), found.suggested.tolist(), strict=True)
    assert decide_all(found, "relabel") == [Decision(row, "relabel", label) for row, label in pairs]


@pytest.fixture
def pets(tmp_path):
    path = tmp_path / "pets.csv"
    path.write_text("x,label\n" + "".join(f"{i},{'cat' if i % 2 else 'dog'}\n" for i in range(8)))
    return path


def test_decisions_as_they_were_exported(pets, tmp_path):
    dataset = load_labelled(pets)
    rows = [(3, "relabel", "dog"), (0, "drop", ""), (5, "keep", ""), (6, "skip", "")]
    path = decisions_file(tmp_path / "d.csv", dataset, rows)
    expected = [Decision(3, "relabel", 1), Decision(0, "drop"), Decision(5, "keep"), Decision(6, "skip")]
    assert read_decisions(path, dataset) == expected
    # a spreadsheet's byte order mark, and an order of its own
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_decisions(path, dataset) == expected


def test_decisions_about_classes_of_samples(tmp_path):
    labels = np.array([[1, 0], [0, 1]], dtype=np.uint8)
    dataset = Dataset("m", np.zeros((2, 2), np.float32), labels, ("sea", "sky"))
    path = tmp_path / "d.csv"
    head = ",".join(COLUMNS) + "\n"
    mark = data_fingerprint(dataset)
    path.write_text(f"{head}{mark},1,1,sea,absent,relabel,present\n{mark},1,1,sky,present,keep,\n")
    assert read_decisions(path, dataset) == [Decision(1, "relabel", 1, 0), Decision(1, "keep", None, 1)]
    for line, message in {
        f"{mark},1,1,fog,absent,keep,": "line 2: there is no class 'fog'",
        f"{mark},1,1,sea,present,keep,": "row 1 is labelled 'absent', not 'present'",
        f"{mark},1,1,sea,absent,relabel,sky": "there is no label 'sky': choose one of absent, present",
    }.items():
        path.write_text(f"{head}{line}\n")
        with pytest.raises(ValueError, match=message):
            read_decisions(path, dataset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": "0123456789abcdef"},
            "these decisions were made on other data than pets, or its labels have changed since",
        ),
        ({"row": "99"}, "line 2 is about row '99', and pets has 8 rows: export it from the review page again"),
        ({"row": "-1"}, "line 2 is about row '-1'"),
        ({"id": "7"}, "line 2: row 3 is '3', not '7'"),
        ({"given": "dog"}, "line 2: row 3 is labelled 'cat', not 'dog'"),
        ({"decision": "delete"}, "line 2: 'delete' is no decision: .*choose one of keep, relabel, drop, skip"),
        ({"decision": "dorp"}, "did you mean 'drop'"),
        ({"decision": "relabel", "label": "cow"}, "line 2: there is no label 'cow': choose one of cat, dog"),
        ({"decision": "relabel", "label": ""}, "line 2: there is no label ''"),
    ],
)
def test_edited_decisions_are_refused_where_they_do_not_fit(pets, tmp_path, changes, message):
    dataset = load_labelled(pets)
    path = decisions_file(tmp_path / "d.csv", dataset, [(3, "drop", "")], **changes)
    with pytest.raises(ValueError, match=message):
        read_decisions(path, dataset)


def test_files_that_are_no_decisions(pets, tmp_path):
    dataset = load_labelled(pets)
    path = decisions_file(tmp_path / "d.csv", dataset, [])
    with pytest.raises(ValueError, match="there are no decisions in it: review some suspects"):
        read_decisions(path, dataset)
    decisions_file(path, dataset, [(3, "drop", ""), (3, "keep", "")])
    with pytest.raises(ValueError, match="lines 2 and 3 are about the same label: remove one of them"):
        read_decisions(path, dataset)
    lines = decisions_file(path, dataset, [(3, "drop", ""), (4, "keep", "")]).read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "0" * 16 + lines[2][16:]]))
    with pytest.raises(ValueError, match="line 3 is of other data than the first one"):
        read_decisions(path, dataset)
    path.write_text("\n".join([*lines[:2], lines[2].rsplit(",", 1)[0]]))
    with pytest.raises(ValueError, match="line 3 has another number of cells"):
        read_decisions(path, dataset)
    with pytest.raises(ValueError, match="there is no column 'data', so these are no decisions"):
        read_decisions(pets, dataset)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"can't be read as \.csv"):
        read_decisions(path, dataset)
    with pytest.raises(FileNotFoundError):
        read_decisions(tmp_path / "absent.csv", dataset)


def test_the_fingerprint_knows_labels_names_and_ids(pets):
    dataset = load_labelled(pets)
    mark = data_fingerprint(dataset)
    assert data_fingerprint(load_labelled(pets)) == mark
    pets.write_text(Path(pets).read_text().replace("3,cat", "3,dog"))
    assert data_fingerprint(load_labelled(pets)) != mark
