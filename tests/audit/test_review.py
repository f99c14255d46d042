"""What the review page holds, before a browser opens it."""

import json
import re

import numpy as np
import pytest
from audit.made_up import suspects_of, table

from catchment.audit import WrongLabels, write_review
from catchment.audit.cleaning import data_fingerprint
from catchment.audit.review import page_content
from catchment.data import Dataset


def content_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def pictures(samples=30, size=(120, 60, 3), seed=0):
    rng = np.random.default_rng(seed)
    dataset, p = table(samples)
    images = rng.integers(0, 256, (samples, *size), dtype=np.uint8)
    names = ("<b>cat</b>", "dog & </script>", "eel")
    return Dataset("pictures", images, dataset.labels, names, ids=tuple(f"{i}/<i>.png" for i in range(samples))), p


def test_it_holds_the_suspects_their_pictures_and_neighbours(tmp_path):
    dataset, p = pictures()
    suspects = suspects_of(dataset, p, 4)
    page = write_review(tmp_path / "r.html", dataset, suspects, features=p, wrong=WrongLabels(4, 2, 7))
    content = content_of(page)
    assert content["data"] == data_fingerprint(dataset)
    assert content["classes"] == content["labels"] == list(dataset.class_names)
    rows = [item[0] for item in content["items"]]
    assert rows == suspects.rows.tolist()
    for row, identity, about, given, suggested, score, reason, near in content["items"]:
        assert (identity, about, given) == (f"{row}/<i>.png", -1, dataset.labels[row])
        assert given != suggested
        assert 0 <= score <= 1
        assert reason.startswith("p(")
        assert len(near) == 4
        assert row not in near
        assert all(content["near"][str(n)] == dataset.class_names[dataset.labels[n]] for n in near)
        assert all(content["pictures"][str(n)].startswith("data:image/") for n in (row, *near))
    assert "4 labels are believed wrong (95 % interval 2 to 7)" in page.read_text()


def test_nothing_in_the_data_can_end_the_script_or_be_taken_for_markup(tmp_path):
    dataset, p = pictures()
    text = write_review(tmp_path / "r.html", dataset, suspects_of(dataset, p, 4)).read_text()
    assert "<b>cat" not in text
    assert text.count("</script>") == 2
    assert content_of(tmp_path / "r.html")["classes"][1] == "dog & </script>"


def test_pictures_are_small_and_tiny_ones_are_kept_as_they_are():
    from PIL import Image

    dataset, p = pictures()
    content = page_content(dataset, suspects_of(dataset, p, 2))
    assert not content["tiny"]
    assert all(_size(address, Image) == (48, 96) for address in content["pictures"].values())
    small, p = pictures(size=(8, 8, 1))
    content = page_content(small, suspects_of(small, p, 2))
    assert content["tiny"]
    assert all(_size(address, Image) == (8, 8) for address in content["pictures"].values())


def _size(address, image):
    import base64
    import io

    return image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).size


def test_rows_of_a_table_show_their_most_unusual_columns():
    dataset, p = table(60)
    suspects = suspects_of(dataset, p, 3)
    content = page_content(dataset, suspects)
    assert content["pictures"] == {}
    names, values = zip(*content["facts"][0], strict=True)
    assert names == ("length", "mass", "age")
    assert values == tuple(f"{value:.4g}" for value in dataset.inputs[suspects.rows[0]])


def test_ten_thousand_suspects_are_the_most_and_few_bytes_each(monkeypatch):
    dataset, p = table(60)
    monkeypatch.setattr("catchment.audit.review.PAGE_SUSPECTS", 5)
    assert len(page_content(dataset, suspects_of(dataset, p, 9))["items"]) == 5


def test_the_key_of_the_progress_is_of_this_list_of_this_data():
    dataset, p = table(60)
    first, other = (page_content(dataset, suspects_of(dataset, p, count))["key"] for count in (5, 6))
    assert first != other
    assert first == page_content(dataset, suspects_of(dataset, p, 5))["key"]


def test_of_many_labels_it_says_which_class_and_the_neighbours_classes():
    labels = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.uint8)
    dataset = Dataset("m", np.eye(3, dtype=np.float32), labels, ("sea", "sky"))
    p = np.array([[0.9, 0.9], [0.9, 0.9], [0.1, 0.2]])
    content = page_content(dataset, suspects_of(dataset, p, 1))
    assert content["labels"] == ["absent", "present"]
    assert content["items"][0][:5] == [0, "0", 1, 0, 1]
    assert content["near"] == {1: "sea, sky", 2: "-"}


def test_without_suspects_there_is_no_page(tmp_path):
    dataset, p = table(60)
    with pytest.raises(ValueError, match="no label of made-up is believed wrong: list the most suspect anyway"):
        write_review(tmp_path / "r.html", dataset, suspects_of(dataset, p, 0))
    assert list(tmp_path.iterdir()) == []
