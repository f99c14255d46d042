"""The pages in a real browser: what they ask for, what fits, and what is drawn."""

import pytest
from browser import Browser
from report.run_folders import made_up_evaluation, made_up_map, made_up_transport, write_run

from catchment.report import write_comparison, write_run_report

pytestmark = pytest.mark.browser
HISTORY = [
    {"epoch": e, "train_loss": 2.0 / e, "learning_rate": 0.05, "seconds": 0.25, "validation_accuracy": 0.1 * e}
    | ({"test_accuracy": 0.09 * e} if e % 2 == 0 else {})
    | {"train_corrected": 0.5 + 0.05 * e, "train_damaged": 0.3 / e}
    | {"transported_corrected": 0.6 + 0.05 * e, "transported_damaged": 0.2 / e}
    for e in range(1, 7)
]
LUMINANCE = """(property) => {
  const [r, g, b] = getComputedStyle(document.body)[property].match(/[\\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["run", "comparison"])
def page(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(
            folder / name, history=HISTORY, settings={"objective": name}, reported_epoch=6, objective=name,
            names=["cat", "a class with quite a long name", "bird_without_any_place_to_break_the_line_of_its_name"],
            evaluation=made_up_evaluation(image=(8, 8, 1) if name == "gce" else (48, 40, 3), seed=seed),
            imbalance={"kind": "long-tail", "class_counts": [200, 60, 20]}, transport=made_up_transport(),
            feature_map=made_up_map(),
        )
        for seed, name in enumerate(("drainage", "gce", "nce-agce"))
    ]  # fmt: skip
    if request.param == "run":
        return write_run_report(folders[0])
    return write_comparison(folders, folder / "comparison.html")


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_nothing_is_fetched_nothing_fails_and_nothing_sticks_out(browser, page, width):
    browser.size(width)
    browser.colour_scheme("light")
    browser.open(page)
    assert [address for address in browser.requests if not address.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.problems == []
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # a box that scrolls sideways can be reached by keyboard
    assert browser.evaluate(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex !== 0 && e.clientWidth).length"
    ) == 0  # fmt: skip
    assert browser.evaluate("getComputedStyle(document.querySelector('.contents')).display") == (
        "block" if width == 1280 else "none"
    )


def test_every_picture_and_every_figure_is_drawn(browser, page):
    browser.size(375)
    browser.open(page)
    widths = browser.evaluate(
        "Promise.all([...document.images].map(i => {i.loading = 'eager';"
        " return i.decode().then(() => i.naturalWidth)}))"
    )
    assert len(widths) == (24 if page.name == "report.html" else 0)
    assert all(width > 0 for width in widths)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].map(s => {const b = s.getBBox(); const r ="
        " s.getBoundingClientRect(); return [b.width, b.height, r.width, r.height]})"
    )
    assert len(boxes) >= (11 if page.name == "report.html" else 6)
    assert all(size > 10 for box in boxes for size in box)
    # what is drawn keeps to its own box, so that no label is cut off
    cut_off = browser.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].flatMap(s => {const r = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].filter(t => {const b = t.getBoundingClientRect();"
        " return b.left < r.left - 1 || b.right > r.right + 1 || b.top < r.top - 1 || b.bottom > r.bottom + 1})"
        ".map(t => s.getAttribute('aria-label') + ': ' + t.textContent)})"
    )
    assert cut_off == []


def test_dark_mode_is_dark_with_light_text(browser, page):
    browser.size(1280)
    for scheme, paper_is_light in (("light", True), ("dark", False)):
        browser.colour_scheme(scheme)
        browser.open(page)
        paper = browser.evaluate(f"({LUMINANCE})('backgroundColor')")
        ink = browser.evaluate(f"({LUMINANCE})('color')")
        assert (paper > 0.9, ink < 0.2) == (paper_is_light, paper_is_light)
        assert (paper < 0.15, ink > 0.8) == (not paper_is_light, not paper_is_light)
        labels = browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert labels == browser.evaluate("getComputedStyle(document.body).color")
    browser.colour_scheme("light")


def test_the_first_key_reaches_the_skip_link_and_it_leads_to_the_content(browser, page):
    browser.size(1280)
    browser.open(page)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "content"
