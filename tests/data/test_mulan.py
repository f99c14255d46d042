import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from published_formats_multilabel import DENSE, SPARSE, labels_xml, write_dense, write_sparse

from catchment.data import mulan
from catchment.data.mulan import Attribute, read_arff, read_label_names, read_mulan, read_mulan_set

REAL = os.environ.get("CATCHMENT_DATA")
WARBLER = "MacGillivray's Warbler"


def write(path, text):
    path.write_text(text)
    return path


def header(*types):
    lines = "".join(f"@attribute a{place} {kind}\n" for place, kind in enumerate(types))
    return f"@relation test\n{lines}@data\n"


def test_dense_file_with_quoted_names_and_a_missing_value(tmp_path):
    arff = read_arff(write(tmp_path / "a.arff", DENSE))
    assert arff.attributes == (
        Attribute("energy", None),
        Attribute("pitch in Hz", None),
        Attribute("-", None),
        Attribute("site", ("north", "far south", "east")),
        Attribute(WARBLER, ("0", "1")),
        Attribute("Robin", ("0", "1")),
    )
    assert arff.values.dtype == np.float32
    np.testing.assert_array_equal(
        arff.values,
        [
            [0.5, 1000, -1, 0, 1, 0],
            [1.5, 2000, 2, 1, 0, 1],
            [np.nan, -0.5, 3, 2, 1, 1],
            [2.5, 4, 4, 1, 0, 0],
            [-1, 0, 5, 0, 0, 1],
        ],
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_sparse_file_with_comments_and_upper_case(tmp_path, ending):
    path = tmp_path / "a.arff"
    path.write_bytes(SPARSE.replace("\n", ending).encode())
    arff = read_arff(path)
    assert [attribute.name for attribute in arff.attributes] == ["000", "/", "motif", "count", "one", "two"]
    # What isn't listed is 0, and YES, the first value of motif, which is position 0.
    np.testing.assert_array_equal(
        arff.values, [[1, 0, 0, 2.5, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]]
    )


def test_sparse_and_dense_rows_give_the_same(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, size=(20, 7))
    types = header(*["{0,'1',2}"] * 3, *["numeric"] * 4)
    dense = types + "\n".join(",".join(map(str, row)) for row in values)
    sparse = types + "\n".join(
        "{" + ",".join(f"{place} '{value}'" for place, value in enumerate(row) if value) + "}" for row in values
    )
    one, other = read_arff(write(tmp_path / "a.arff", dense)), read_arff(write(tmp_path / "b.arff", sparse))
    np.testing.assert_array_equal(one.values, values)
    np.testing.assert_array_equal(other.values, values)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"'a\'b'", "a'b"),
        (r'"say \"hi\", {x}"', 'say "hi", {x}'),
        (r"'tab\there'", "tab\there"),
        (r"'back\\slash'", "back\\slash"),
        ("2", "2"),
        ("don't", "don't"),
        ("Größe", "Größe"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_names_as_they_are_written(tmp_path, written, name, encoding):
    path = tmp_path / "a.arff"
    path.write_bytes(f"@relation r\n@attribute {written} numeric\n@data\n3\n".encode(encoding))
    assert read_arff(path).attributes == (Attribute(name, None),)


def test_values_may_hold_commas_question_marks_and_underscores(tmp_path):
    text = (
        header("{'a,b',x_y,'?','it\\'s'}", "{0,1}{").replace("{0,1}{", "{0,1}") + "'a,b',1\nx_y,0\n'?',1\n'it\\'s',?\n"
    )
    np.testing.assert_array_equal(
        read_arff(write(tmp_path / "a.arff", text)).values, [[0, 1], [1, 0], [2, 1], [3, np.nan]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@attribute a numeric\n@data\n1\n", "line 1: there is no @relation"),
        ("", "line 1: there is no @relation"),
        ("@relation r\n@attribute a numeric\n", "no @data: is it cut off"),
        ("@relation r\n@data\n1\n", "line 2: there are no attributes before @data"),
        ("@relation r\n@attribute a\n@data\n1\n", "line 2: '@attribute a' is no line of an ARFF header"),
        ("@relation r\n@attribute 'a numeric\n@data\n1\n", "line 2: .* is no line of an ARFF header"),
        ("@relation r\n@attribute a string\n@data\nx\n", "line 2: attribute 'a' is of type 'string'"),
        ("@relation r\n@attribute a {0,0}\n@data\n0\n", "line 2: attribute 'a' declares a value twice"),
        ("@relation r\n@attribute a {0,}\n@data\n0\n", "line 2: '' can't be read as a value"),
        ("@relation r\n@attribute a {0,?}\n@data\n0\n", "line 2: '\\?' can't be a value"),
        ("@relation r\n@attribute a real\n@attribute 'a' real\n@data\n0,0\n", "two attributes are called 'a'"),
        (header("numeric"), "there are no rows after @data"),
        (header("numeric", "numeric") + "1,2\n3\n", "line 6: 1 values for 2 attributes: is it cut off"),
        (header("numeric", "numeric") + "1,2,3\n", "line 5: 3 values for 2 attributes"),
        (header("numeric", "numeric") + "1,\n", "line 5: '' can't be read as a value"),
        (header("numeric") + "'1\n", "line 4: \"'1\" can't be read as a value"),
        (header("numeric") + "1 % one\n", "line 4: '1 % one' of attribute 'a0' is no finite number"),
        (header("numeric") + "1_0\n", "'1_0' of attribute 'a0' is no finite number"),
        (header("numeric") + "١\n", "'١' of attribute 'a0' is no finite number"),
        (header("numeric") + "nan\n", "'nan' of attribute 'a0' is no finite number"),
        (header("numeric") + "1e39\n", "'1e39' of attribute 'a0' is no finite number"),
        (header("numeric") + "-inf\n", "'-inf' of attribute 'a0' is no finite number"),
        (header("{0,1}") + "2\n", "line 4: '2' of attribute 'a0' is none of its values \\('0', '1'\\)"),
        (header("{0,1}") + "{0 1\n", "line 4: the row has no '}' at its end: is it cut off"),
        (header("{0,1}") + "{0}\n", "line 4: '0' can't be read as a value"),
        (header("{0,1}") + "{1 1}\n", "line 4: index 1 after -1 in a row of 1 attributes"),
        (header("{0,1}", "{0,1}") + "{1 1,0 1}\n", "line 5: index 0 after 1"),
        (header("{0,1}", "{0,1}") + "{1 1,1 1}\n", "line 5: index 1 after 1"),
        (header("{0,1}", "{0,1}") + "{-1 1}\n", "line 5: '-1 1' can't be read as a value"),
    ],
)
def test_broken_arff_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "a.arff"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_arff(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_labels_are_named_by_the_xml_nested_ones_too(tmp_path):
    text = """<?xml version="1.0"?>
        <labels xmlns="http://mulan.sourceforge.net/labels"><!-- a comment -->
        <label name="sport &amp; play"><label name="MacGillivray's Warbler"/></label>
        <label name="&lt;b&gt;"/></labels>"""
    assert read_label_names(write(tmp_path / "a.xml", text)) == ("sport & play", WARBLER, "<b>")
    assert read_label_names(write(tmp_path / "b.xml", '<labels><label name="plain"/></labels>')) == ("plain",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labels_xml(["a"])[:-12].encode(), "no complete XML file"),
        (b"", "no complete XML file"),
        (b'<?xml version="1.0" encoding="x-none"?><labels/>', "no complete XML file"),
        (b'<!DOCTYPE labels [<!ENTITY a "b">]><labels><label name="&a;"/></labels>', "document type declaration"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE l><l/>'.encode("utf-16"), "document type declaration"),
        (b"<html/>", "its root is <html>, not <labels>"),
        (labels_xml([]).encode(), "it names no labels"),
        (labels_xml(["a", ""]).encode(), "label 2 has no name"),
        (labels_xml(["a", "b", "a"]).encode(), "two labels are called 'a'"),
    ],
)
def test_broken_xml_is_refused(tmp_path, content, message):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_label_names(path)
    assert "\n" not in str(caught.value)


def test_entities_are_never_expanded(tmp_path):
    levels = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE labels [<!ENTITY a0 "aaaaaaaaaa">{levels}]><labels><label name="&a9;"/></labels>'
    start = time.perf_counter()
    with pytest.raises(ValueError, match="document type declaration"):
        read_label_names(write(tmp_path / "a.xml", bomb))
    assert time.perf_counter() - start < 1


def test_set_of_two_dense_files(tmp_path):
    write_dense(tmp_path, "birds")
    train, test = read_mulan_set(tmp_path, "birds")
    assert train.class_names == (WARBLER, "Robin")
    assert train.feature_names == ("energy", "pitch in Hz", "-", "site=north", "site=far south", "site=east")
    assert (train.labels.dtype, train.inputs.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(train.labels, [[1, 0], [0, 1], [1, 1], [0, 0], [0, 1]])
    mean = (0.5 + 1.5 + 2.5 - 1) / 4
    expected = [
        [0.5, 1000, -1, 1, 0, 0],
        [1.5, 2000, 2, 0, 1, 0],
        [mean, -0.5, 3, 0, 0, 1],
        [2.5, 4, 4, 0, 1, 0],
        [-1, 0, 5, 1, 0, 0],
    ]
    np.testing.assert_array_equal(train.inputs, expected)
    np.testing.assert_array_equal(test.inputs, expected)
    assert train.ids == test.ids == ("0", "1", "2", "3", "4")
    assert (train.name, train.is_multi_label) == ("birds", True)
    assert train.notes == (
        "classes are in the order of birds-train.arff; birds.xml lists them in another",
        "missing values in 1 training and 1 test rows became the mean of the training part, in 'energy'",
        "10 rows and 2 labels, where 645 and 19 are published",
    )


def test_missing_values_take_the_mean_of_the_training_part_only(tmp_path):
    types = header("numeric", "{x,y}", "{0,1}", "{0,1}")
    train = write(tmp_path / "train.arff", types + "1,x,1,0\n2,x,0,1\n6,y,0,1\n")
    test = write(tmp_path / "test.arff", types + "?,?,?,0\n100,y,1,1\n")
    xml = write(tmp_path / "a.xml", labels_xml(["a3"]))
    one, other = read_mulan(train, test, xml)
    np.testing.assert_allclose(other.inputs, [[3, 2 / 3, 1 / 3, 1 / 3], [100, 0, 1, 1]], rtol=1e-6)
    np.testing.assert_array_equal(one.inputs, [[1, 1, 0, 1], [2, 1, 0, 0], [6, 0, 1, 0]])
    assert "missing values in 0 training and 1 test rows" in one.notes[0]
    write(train, types + "?,x,1,0\n?,x,0,1\n")
    with pytest.raises(ValueError, match="a: 'a0' has no value in any row of the training part"):
        read_mulan(train, test, xml)


def test_binary_attributes_keep_their_number_whichever_comes_first(tmp_path):
    types = header("{1,0}", "{1,0}")
    rows = write(tmp_path / "train.arff", types + "1,0\n0,1\n{}\n")
    train, _ = read_mulan(rows, rows, write(tmp_path / "a.xml", labels_xml(["a1"])))
    np.testing.assert_array_equal(train.inputs, [[1], [0], [1]])
    np.testing.assert_array_equal(train.labels, [[0], [1], [1]])
    assert train.feature_names == ("a0",)


def test_set_of_one_sparse_file_is_split_the_same_way_each_time(tmp_path):
    write_sparse(tmp_path / "multilabel", "enron")
    train, test = read_mulan_set(tmp_path, "enron")
    assert (len(train), len(test)) == (3, 1)
    assert train.feature_names == ("000", "/", "motif=YES", "motif=NO", "count")
    whole = np.array([[1, 0, 1, 0, 2.5], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 0, 0]])
    labels = np.array([[1, 0], [0, 0], [0, 1], [1, 1]])
    for part in (train, test):
        rows = [int(row) for row in part.ids]
        np.testing.assert_array_equal(part.inputs, whole[rows])
        np.testing.assert_array_equal(part.labels, labels[rows])
    assert sorted(train.ids + test.ids) == ["0", "1", "2", "3"]
    assert train.notes[0] == "there is no test file, so 20 % of the rows are held out, seed 0"
    assert read_mulan_set(tmp_path, "enron").test.ids == test.ids


def test_protein_ids_of_genbase_are_no_feature(tmp_path):
    place = tmp_path / "genbase"
    place.mkdir()
    text = "@relation genbase\n@attribute protein {P1,P2,P3}\n@attribute PS1 {YES,NO}\n@attribute class1 {0,1}\n@data\n"
    write(place / "genbase-train.arff", text + "P2,YES,1\nP1,NO,0\n")
    write(place / "genbase-test.arff", text.replace("P1,P2,P3", "P3") + "P3,NO,1\n")
    write(place / "genbase.xml", labels_xml(["class1"]))
    train, test = read_mulan_set(tmp_path, "genbase")
    assert train.feature_names == ("PS1=YES", "PS1=NO")
    np.testing.assert_array_equal(train.inputs, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(test.inputs, [[0, 1]])
    assert train.notes[0] == "left out 'protein', which identifies rows"


def test_sets_are_found_whatever_their_capitals(tmp_path):
    by_name = {known.info.name: known for known in mulan.SETS}
    assert by_name["corel5k"].find(tmp_path) is None
    assert by_name["corel5k"].find(tmp_path / "nowhere") is None
    (tmp_path / "corel5k").mkdir()
    assert by_name["corel5k"].find(tmp_path) is None
    place = write_dense(tmp_path / "multilabel", "Corel5k")
    assert by_name["corel5k"].find(tmp_path) == place
    for part in ("train", "test"):
        (place / f"Corel5k-{part}.arff").rename(place / f"Corel5k-{part}-sparse.arff")
    assert by_name["corel5k"].find(tmp_path) == place
    train, _ = by_name["corel5k"].read(tmp_path, "")
    assert (train.name, len(train)) == ("corel5k", 5)


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"yeast isn't there: run catchment fetch yeast, or get yeast.xml"):
        read_mulan_set(tmp_path, "yeast")
    with pytest.raises(FileNotFoundError, match=r"a.arff: there is no such file"):
        read_arff(tmp_path / "a.arff")
    with pytest.raises(FileNotFoundError, match=r"a.xml: there is no such file"):
        read_label_names(tmp_path / "a.xml")


def test_files_that_do_not_fit_together(tmp_path):
    place = write_dense(tmp_path, "birds")
    train, test, xml = place / "birds-train.arff", place / "birds-test.arff", place / "birds.xml"
    cases = [
        (train, DENSE.replace("0.5,1e3,-1,north,1,0", "0.5,1e3,-1,north,1,?"), "row 1 after @data has no value for"),
        (
            test,
            DENSE.replace("pitch in Hz", "pitch"),
            "attribute 'pitch' isn't declared like 'pitch in Hz' in birds-train.arff",
        ),
        (test, header("numeric") + "1\n", "1 attributes, but birds-train.arff has 6"),
        (xml, labels_xml(["Robin", "Wren"]), "no attribute of birds-train.arff is called 'Wren'"),
    ]
    for path, text, message in cases:
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read_mulan(train, test, xml)
        assert str(path) in str(caught.value)
        path.write_text(before)
    numbers = write(tmp_path / "numbers.arff", DENSE.replace("@attribute Robin {0,1}", "@attribute Robin numeric"))
    with pytest.raises(ValueError, match=r"numbers.arff: label 'Robin' isn't declared as \{0,1\}: declare it so"):
        read_mulan(numbers, None, xml)
    only = write(tmp_path / "only.arff", header("{0,1}") + "1\n0\n")
    with pytest.raises(ValueError, match="all its attributes are labels"):
        read_mulan(only, None, write(tmp_path / "only.xml", labels_xml(["a0"])))


def test_a_file_cut_off_anywhere_in_its_rows_is_refused_or_ends_with_a_row(tmp_path):
    path, start = tmp_path / "a.arff", DENSE.index("@data") + 6
    for end in range(start + 2, len(DENSE)):
        path.write_text(DENSE[:end])
        try:
            rows = len(read_arff(path).values)
        except ValueError:
            continue
        assert DENSE[:end].rstrip()[-2:] in (",0", ",1")
        assert rows == DENSE[start:end].strip().count("\n") + 1


def test_records_state_the_published_counts():
    infos = {known.info.name: known.info for known in mulan.SETS}
    assert {name: info.train + info.test for name, info in infos.items()} == {
        "scene": 2407,
        "yeast": 2417,
        "emotions": 593,
        "flags": 194,
        "birds": 645,
        "cal500": 502,
        "genbase": 662,
        "medical": 978,
        "enron": 1702,
        "bibtex": 7395,
        "corel5k": 5000,
    }
    assert infos["corel5k"].layout.endswith("with Corel5k.xml, Corel5k-train.arff, Corel5k-test.arff")
    files = [file.to for known in mulan.SETS if known.info.name == "cal500" for file in known.downloads]
    assert files == ["cal500/cal500.xml", "cal500/cal500.arff"]


@pytest.mark.skipif(REAL is None, reason="set CATCHMENT_DATA to a folder with multilabel/ to test on the real files")
@pytest.mark.parametrize(
    ("name", "rows", "features", "columns", "labels", "cardinality"),
    [
        ("scene", (1211, 1196), 294, 294, 6, 1.07),
        ("yeast", (1500, 917), 103, 103, 14, 4.24),
        ("emotions", (391, 202), 72, 72, 6, 1.87),
        ("flags", (129, 65), 19, 43, 7, 3.39),
    ],
)
def test_real_sets_have_the_published_counts(name, rows, features, columns, labels, cardinality):
    start = time.perf_counter()
    train, test = read_mulan_set(Path(REAL), name)
    assert time.perf_counter() - start < 5
    assert (len(train), len(test)) == rows
    assert (train.inputs.shape[1], train.num_classes) == (columns, labels)
    assert len({feature.partition("=")[0] for feature in train.feature_names}) == features
    assert round((train.labels.sum() + test.labels.sum()) / sum(rows), 2) == cardinality
    known = next(known for known in mulan.SETS if known.info.name == name)
    assert (known.info.train, known.info.test, known.info.classes) == (*rows, labels)
    assert not [note for note in train.notes if "published" in note or "missing" in note]
    for part in (train, test):
        assert np.isfinite(part.inputs).all()


@pytest.mark.skipif(REAL is None, reason="set CATCHMENT_DATA to a folder with multilabel/ to test on the real files")
def test_real_values_are_those_of_the_files():
    train, test = read_mulan_set(Path(REAL), "yeast")
    assert train.class_names == tuple(f"Class{number}" for number in range(1, 15))
    folder = next(known for known in mulan.SETS if known.info.name == "yeast").find(Path(REAL))
    for part, file in ((train, "yeast-train.arff"), (test, "yeast-test.arff")):
        values = np.loadtxt(folder / file, delimiter=",", comments=("@", "%"))
        np.testing.assert_array_equal(part.inputs, values[:, :103].astype(np.float32))
        np.testing.assert_array_equal(part.labels, values[:, 103:])
    train, _ = read_mulan_set(Path(REAL), "flags")
    # The first row is 4,1,164,7,8,2,...: landmass 4, zone 1, area 164, population 7, language 8, religion 2.
    row = dict(zip(train.feature_names, train.inputs[0].tolist(), strict=True))
    assert {name for name, value in row.items() if "=" in name and value} == {
        "landmass=4",
        "zone=1",
        "language=8",
        "religion=2",
    }
    assert (row["area"], row["population"], row["crescent"]) == (164, 7, 1)
    assert train.labels[0].tolist() == [1, 0, 0, 0, 1, 0, 0]
