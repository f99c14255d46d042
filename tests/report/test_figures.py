import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from catchment.report import figures

SERIES = {"drainage": ([0.2, 0.4], [90.0, 80.0], [1.0, 2.0]), "gce": ([0.2, 0.4], [88.0, 70.0], [float("nan"), 0.5])}
LABELS = {"x_label": "noise rate", "y_label": "accuracy", "description": 'falls < 1 & "more"'}


def parsed(svg):
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    return root


def texts(svg):
    return [element.text for element in parsed(svg).iter("text")]


def line(**changes):
    return figures.Line("a", [1, 2, 3], [0.1, 0.5, 0.4], **changes)


def test_a_figure_is_described_and_carries_no_clutter():
    svg = figures.lines([line()], **LABELS)
    root = parsed(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'falls < 1 & "more"'
    assert not re.search(r"xmlns|xlink|metadata|DOCTYPE|<style|<!--|font-family|\n", svg)
    assert {"noise rate", "accuracy"} <= set(texts(svg))


def test_lines_and_text_have_the_colour_of_the_page():
    svg = figures.lines([line()], **LABELS)
    assert "currentColor" in svg
    assert figures.COLOURS[0].lower() in svg
    # neither black nor white, which one of the two schemes would hide, and no background
    assert not re.search(r"#0{6}|#f{6}|#010203", svg)


def test_ids_of_two_figures_differ_and_references_stay_within_a_figure():
    first, second = figures.lines([line()], **LABELS), figures.lines([line(style=1)], **LABELS)
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        references = re.findall(r'(?:url\(|href=")#([^)"]+)', svg)
        assert references
        assert set(references) <= set(own)


def test_legends_of_one_page_share_no_id():
    first, second = figures.legend(["a", "b"], place="one"), figures.legend(["a", "b"], place="two")
    ids = re.findall(r' id="([^"]+)"', first + second)
    assert len(ids) == len(set(ids)) == 8
    assert "&lt;b&gt;" in figures.legend(["<b>", "c"], place="one")


def test_same_input_same_bytes():
    again = [figures.lines_with_errors(SERIES, **LABELS, references=[("gce", 0.4, 71)]) for _ in range(2)]
    assert again[0] == again[1]


def test_styles_of_twelve_runs_differ_in_more_than_colour():
    looks = [figures._look(style) for style in range(12)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 12
    assert len({look["marker"] for look in looks}) == 12
    for one, other in itertools.pairwise(looks):
        assert all(one[key] != other[key] for key in one)


def test_points_are_where_their_numbers_say():
    svg = figures.lines([figures.Line("a", [0, 1, 2], [0, 1, 3])], x_label="x", y_label="y", description="d")
    points = [(float(use["x"]), float(use["y"])) for use in marks(svg)]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.05)
    # y grows downwards in SVG: three units up take three times what one takes
    assert points[0][1] - points[2][1] == pytest.approx(3 * (points[0][1] - points[1][1]), abs=0.1)


def marks(svg):
    """The markers of the first series: the blue ones."""
    return [use.attrib for use in parsed(svg).iter("use") if "0072b2" in use.attrib["style"]]


def test_a_gap_is_no_point_and_one_epoch_is_one():
    gap = figures.lines([figures.Line("a", [1, 2, 3], [0.1, float("nan"), 0.4])], **LABELS)
    assert len(marks(gap)) == 2
    one = figures.lines([figures.Line("a", [1], [0.5])], **LABELS)
    assert len(marks(one)) == 1
    assert "1" in texts(one)


def test_means_have_bars_and_published_points_are_hollow():
    svg = figures.lines_with_errors(SERIES, **LABELS, references=[("drainage", 0.4, 81.0)])
    assert {"drainage", "gce", "hollow: published"} <= set(texts(svg))
    assert parsed(svg).attrib["aria-label"] == LABELS["description"]
    assert "fill: none; stroke: var(--blue, #0072b2)" in svg or "fill-opacity: 0" in svg or "fill: none" in svg
    without = figures.lines_with_errors(SERIES, **LABELS)
    assert "hollow: published" not in texts(without)
    # the published point is one more mark in the colour of its series, and the only one that is not filled
    hollow = [mark for mark in marks(svg) if "fill-opacity: 0" in mark["style"] or "fill: none" in mark["style"]]
    assert len(marks(svg)) == len(marks(without)) + 1
    assert len(hollow) == 1


def test_columns_and_references_must_fit():
    with pytest.raises(ValueError, match="gce: x, mean and standard deviation of different lengths"):
        figures.lines_with_errors({"gce": ([1], [1, 2], [0, 0])}, **LABELS)
    with pytest.raises(ValueError, match="there is no series 'mae' for its published point: choose one of drainage"):
        figures.lines_with_errors(SERIES, **LABELS, references=[("mae", 1, 1)])


@pytest.mark.parametrize("name", ["a$b$c", "x" * 200, "漢字", "<b>", "a\nb\x00", r"\frac{", "_"])
def test_any_name_can_be_drawn(name, recwarn):
    svg = figures.heat_map(np.array([[1, 2], [3, 4]]), [name, "b"], **LABELS)
    shown = name if len(name) < 15 else name[:13] + "…"
    assert shown.replace("\n", " ").replace("\x00", " ") in texts(svg)
    assert len(recwarn) == 0


def test_a_heat_map_shows_its_counts_but_zeros():
    svg = figures.heat_map(np.array([[11, 0], [22, 33]]), ["a", "b"], **LABELS)
    assert {"11", "22", "33"} <= set(texts(svg))
    assert "0" not in texts(svg)


def test_a_heat_map_of_many_classes_has_no_counts_and_stays_small():
    counts = np.eye(1000, dtype=np.int64) * 77
    svg = figures.heat_map(counts, [str(c) for c in range(1000)], **LABELS)
    assert "77" not in texts(svg)
    assert len(svg) < 100_000


def test_cells_are_as_strong_as_the_root_of_their_share_and_the_diagonal_has_its_own_colour():
    cells = figures._cells(np.array([[3, 1], [0, 0]]))
    assert cells[0, 0].tolist() == [0x00, 0x72, 0xB2, round(255 * 0.65 * 0.75**0.5)]
    assert cells[0, 1].tolist() == [0xD5, 0x5E, 0x00, round(255 * 0.65 * 0.5)]
    assert cells[1, 1, 3] == 0


def test_points_lie_where_they_are_and_a_logarithm_spaces_them():
    points = np.array([[1.0, 0.5], [10.0, 0.5], [100.0, 0.5]])
    labels = {"x_label": "samples", "y_label": "accuracy", "description": "d"}
    for log_x, share in ((False, 9 / 99), (True, 0.5)):
        svg = figures.scatter([("a", points, 0)], log_x=log_x, **labels)
        x = [float(use["x"]) for use in marks(svg)][:3]
        assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(share, abs=0.002)
    assert {"1", "10", "100", "samples", "accuracy", "a"} <= set(texts(svg))
    svg = figures.dots([[1, 10, 100]], ["a", "b", "c"], x_label="samples", description="d", log_x=True)
    x = [float(use["x"]) for use in marks(svg)]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.5, abs=0.002)


def test_without_axis_labels_both_directions_have_one_scale_and_no_numbers():
    points = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 10.0]])
    svg = figures.scatter([("a", points, 0), ("b", points[:1] - 5, 1)], description="d")
    first, second, third = [(float(use["x"]), float(use["y"])) for use in marks(svg)][:3]
    assert second[0] - first[0] == pytest.approx(2 * (first[1] - third[1]), rel=0.01)
    assert set(texts(svg)) == {"a", "b"}


def contrast(one, other):
    def luminance(colour):
        shares = np.array(colour) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("ink", "paper"), [((26, 31, 37), (255, 255, 255)), ((229, 233, 238), (18, 22, 27))])
def test_numbers_on_cells_can_be_read_in_both_schemes(ink, paper):
    cells = figures._cells(np.eye(2, dtype=np.int64)[::-1] + np.eye(2, dtype=np.int64))
    full = figures._cells(np.eye(2, dtype=np.int64))[0, 0], figures._cells(np.eye(2, dtype=np.int64)[::-1])[0, 1]
    for cell in (*full, *cells.reshape(-1, 4)):
        opacity = cell[3] / 255
        assert contrast(ink, opacity * cell[:3] + (1 - opacity) * np.array(paper)) > 4.5


def test_matplotlib_settings_of_the_user_are_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.lines([line()], **LABELS)
    assert dict(mpl.rcParams) == before
