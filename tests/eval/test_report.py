"""Reports as files: the JSON is the result, Markdown and HTML let no text through unescaped."""

import html.parser
import json
import re

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval.report import read_report, to_json, to_markdown, write_reports
from openseg_jax.eval.report_html import Picture, write_html
from openseg_jax.eval.result import ImageRow
from tests.eval.test_result import referring, semantic

EVIL = "<script>alert('x')</script>\"|`*_b_"
VOID = {"meta", "img", "input", "link", "br"}


class Balanced(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that what opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(path):
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert not page.open
    return page


def look(names):
    return {name: drawn(name) for name in names}


def drawn(name):
    rng = np.random.default_rng(len(name))
    truth = rng.integers(-1, 6, (40, 300))
    image = rng.integers(0, 255, (40, 300, 3), np.uint8)
    return Picture(image, truth, rng.integers(0, 6, (40, 300)))


def evil():
    rows = tuple(ImageRow(f"{EVIL}{i}", i / 10, 5) for i in range(6))
    classes = (EVIL, *(f"class {i}" for i in range(4)))
    return semantic(
        classes=5, rows=rows, model=EVIL, provenance={EVIL: EVIL}, benchmark="voc20",
        missed=True,
    ), classes  # fmt: skip


def results():
    one, classes = evil()
    fields = {**vars(one), "classes": classes}
    first = type(one)(**fields)
    other = type(one)(**{**fields, "method": EVIL, "matrix": one.matrix.T})
    return [first, referring(), other]


def test_files_are_written_and_the_json_is_the_result(tmp_path):
    files = write_reports(tmp_path / "new", results(), name="all", pictures=[look, None, None])
    assert [path.name for path in files] == ["all.json", "all.md", "all.html"]
    back = read_report(files[0])
    assert to_json(back) == to_json(results())
    found = json.loads(files[0].read_text(encoding="utf-8"))["results"]
    assert found[0]["metrics"]["miou_all"] == pytest.approx(results()[0].metrics().miou["all"])
    assert len(found[0]["class_iou"]) == 5
    assert found[1]["metrics"]["found_0.5"] == pytest.approx(2 / 3)


def test_the_page_is_one_file_and_lets_no_text_through(tmp_path):
    page = parsed(write_html(tmp_path / "a.html", results(), pictures=[look, None, look]))
    assert [tag for tag, _ in page.tags].count("script") == 1
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 2 * 6 * 3
    assert all(attrs["src"].startswith("data:image/") for attrs in pictures)
    assert any(EVIL in attrs["alt"] for attrs in pictures)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object")
        assert not {"href", "onclick", "onerror"} & set(attrs)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_numbers_in_the_page_sort_as_numbers(tmp_path):
    text = write_html(tmp_path / "a.html", [semantic()]).read_text(encoding="utf-8")
    cell = 100 * semantic().metrics().iou[1]
    assert re.search(rf'data-value="{re.escape(repr(float(cell)))}"[^>]*>{cell:.2f}<', text)


def test_a_referred_object_shows_its_expressions(tmp_path):
    def masks(names):
        inside = np.zeros((200, 400), int)
        inside[50:, 50:] = 1
        shown = np.zeros((200, 400, 3), np.uint8), inside, inside.T.reshape(200, 400)
        return dict.fromkeys(names, Picture(*shown))

    path = write_html(tmp_path / "a.html", [referring()], pictures=[masks])
    text = path.read_text(encoding="utf-8")
    assert "“the left one”" in text and "image/jpeg" in text
    parsed(path)


def test_a_legend_says_what_was_missed_and_what_is_not_there(tmp_path):
    truth = np.array([[1, 1, 1, 1, 2, -1]])
    predicted = np.array([[1, 1, 0, 3, 0, 3]])
    one = semantic(rows=(ImageRow("p", 0.25, 5),), unseen=None)
    picture = Picture(np.zeros((1, 6, 3), np.uint8), truth, predicted)
    text = write_html(
        tmp_path / "a.html", [one], pictures=[lambda names: {"p": picture}]
    ).read_text()
    chips = re.findall(r"</i>([^<]+) <small>([^<]*)</small>", text)
    assert chips == [
        ("class 0", "50 %"), ("class 1", "0 %"), ("(no class)", "missed"),
        ("class 2", "not there"), ("ignored", ""),
    ]  # fmt: skip


def test_markdown_has_all_tables_and_escapes_text():
    text = to_markdown(results())
    for title in ("# voc20", "## Summary", "## Published numbers", "## Classes", "## Most mixed up",
                  "## Time", "## Provenance", "# refcoco\\_val", "## Worst and best"):  # fmt: skip
        assert title.replace("\\_", "_") in text.replace("\\_", "_"), title
    assert "<script" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1, block


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "else"}', '{"format": "openseg_jax.report/1"}', None]
)
def test_other_files_are_refused_as_reports(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"a\.json"):
        read_report(path)


def test_pictures_must_be_as_many_as_results(tmp_path):
    with pytest.raises(UserError, match="one for each result"):
        write_html(tmp_path / "a.html", [semantic()], pictures=[None, None])
    assert not list(tmp_path.iterdir())
