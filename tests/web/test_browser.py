"""The page in a real Chromium: upload, segment, see, point, download; every method once."""

import io

import numpy as np
import pytest
from PIL import Image

from openseg_jax import viz
from openseg_jax.ops import rle
from openseg_jax.web.examples import examples
from tests.web.visitor import drawn, overlap

pytestmark = pytest.mark.slow

# A scene that the miniature segments well, by far.
SCENE, THING, WORDS = 11, "doughnut", "doughnut, water, sky, lighthouse"
EVIL = "<img src=x onerror=window.hacked=1> ${window.hacked=1} {{constructor}}"


def inner_pixel(mask):
    """A pixel whose neighbours are of the same mask."""
    height, width = mask.shape
    shifts = range(-3, 4)
    inside = np.logical_and.reduce([np.roll(mask, (a, b), (0, 1)) for a in shifts for b in shifts])
    inside[:4], inside[-4:], inside[:, :4], inside[:, -4:] = False, False, False, False
    assert inside.any()
    return np.argwhere(inside)[0].tolist(), (height, width)


@pytest.fixture(scope="module")
def done(server, chrome):
    """One visitor with one result, which several tests look at."""
    from tests.web.visitor import Visitor

    visitor = Visitor(chrome, server.url)
    data, truth = drawn(SCENE)
    visitor.upload(data, "scene.png")
    visitor.label(WORDS)
    visitor.segment()
    visitor.result()
    _, png = visitor.download("Label PNG")
    yield visitor, truth, np.asarray(Image.open(io.BytesIO(png)))
    visitor.leave()
    assert not visitor.elsewhere and not visitor.errors


def test_the_masks_are_where_the_things_are(done):
    visitor, truth, labels = done
    names = {name: place for name, place, _ in visitor.rows()}
    assert set(names) <= set(WORDS.split(", ")) and THING in names
    assert overlap(labels == names[THING], truth[THING]) > 0.6
    for _, _, score in visitor.rows():
        assert 0 < score <= 1


def test_the_canvas_has_the_colours_of_the_labels(done):
    visitor, _, labels = done
    painted = visitor.painted()
    scale = painted.shape[0] // labels.shape[0]
    assert painted.shape[:2] == (labels.shape[0] * scale, labels.shape[1] * scale)
    at = painted[scale // 2 :: scale, scale // 2 :: scale]
    assert (at[..., 3] > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.02)
    for name, place, _ in visitor.rows():
        (row, column), _ = inner_pixel(labels == place)
        colour, seen = viz.palette(4)[place].astype(int), at[row, column, :3].astype(int)
        assert np.abs(colour - seen).max() <= 3, name
    visitor.page.locator(".os-opacity input").fill("0")
    assert visitor.painted()[..., 3].max() == 0
    visitor.page.locator(".os-opacity input").fill("55")


def test_pointing_at_a_mask_tells_its_name(done):
    visitor, _, labels = done
    for name, place, score in visitor.rows():
        (row, column), size = inner_pixel(labels == place)
        visitor.point(row, column, size)
        assert visitor.tip() == f"{name}  {score:.2f}"
        assert visitor.page.locator(".os-row.os-active").get_attribute("data-name") == name
    visitor.page.mouse.move(2, 2)
    assert visitor.tip() is None and not visitor.page.locator(".os-row.os-active").count()


def test_pointing_at_a_row_shows_its_mask(done):
    visitor, _, _ = done
    before = visitor.painted()
    visitor.page.locator(".os-row").first.hover()
    lit = visitor.painted()
    assert (before != lit).any()
    visitor.page.mouse.move(2, 2)
    np.testing.assert_array_equal(visitor.painted(), before)
    visitor.page.locator(".os-row").first.focus()
    np.testing.assert_array_equal(visitor.painted(), lit)
    visitor.page.locator(".os-row").first.blur()


def test_the_steps_tell_who_died_and_why(done):
    visitor, _, _ = done
    steps = visitor.page.locator(".os-step")
    alive, threshold = set(WORDS.split(", ")), None
    for number in range(steps.count()):
        step = steps.nth(number)
        lines = step.locator(".os-texts li")
        names = lines.evaluate_all("all => all.map(x => x.dataset.name)")
        assert set(names) == alive
        stay = step.locator(".os-texts li.os-stays").evaluate_all("a => a.map(x => x.dataset.name)")
        for line in step.locator("li.os-dropped em").all_inner_texts():
            score, threshold = line.split(" dropped, not above ")
            assert score == "< 0.01" or float(score) <= float(threshold)
        sizes = step.locator("img").evaluate_all("all => all.map(x => x.naturalWidth)")
        assert len(sizes) == 2 * len(names) and min(sizes) > 0
        alive = set(stay)
    assert threshold is not None, "nothing was dropped"
    assert alive == {name for name, _, _ in visitor.rows()}
    assert "these masks are the result" in steps.last.inner_text()


def test_downloads(done, tmp_path):
    visitor, truth, _ = done
    for title, name in (("Label PNG", "labels.png"), ("Overlay", "overlay.png")):
        given, data = visitor.download(title)
        assert given == name
        (tmp_path / name).write_bytes(data)
    labels, names = viz.read_labels(tmp_path / "labels.png")
    assert names == WORDS.split(", ") and labels.shape == truth[THING].shape
    assert Image.open(tmp_path / "overlay.png").format == "PNG"
    coco, full = visitor.json("COCO JSON"), visitor.json("Full JSON")
    assert [c["name"] for c in coco["categories"]] == names
    assert {a["category_id"] for a in coco["annotations"]} == {p for _, p, _ in visitor.rows()}
    for found in coco["annotations"]:
        mask = labels == found["category_id"]
        np.testing.assert_array_equal(rle.decode(found["segmentation"]), mask)
        assert found["area"] == mask.sum()
    assert full["provenance"]["models"][0]["name"] == "miniature"
    assert "lighthouse" in full["dropped"]


@pytest.mark.parametrize(
    ("title", "inside"),
    [("Dense CLIP", "single pass"), ("MAFT", "masks were proposed"), ("SegCLIP", "Window 1")],
)
def test_every_method_with_an_example(visit, title, inside):
    visitor = visit(dark=title == "MAFT", width=420 if title == "SegCLIP" else 1280)
    visitor.method(title)
    visitor.example(0)
    visitor.result()
    wanted = examples()[0].labels
    assert visitor.page.locator("#os-labels textarea").input_value() == ", ".join(wanted)
    np.testing.assert_array_equal(visitor.picture(), examples()[0].image)
    rows = visitor.rows()
    assert rows and {name for name, _, _ in rows} <= set(wanted)
    assert inside in visitor.page.locator("#os-inside").inner_text()
    full = visitor.json("Full JSON")
    assert full["provenance"]["method"] == title.replace("Dense CLIP", "ClipDense").replace(
        "MAFT", "Maft").replace("SegCLIP", "SegClip")  # fmt: skip
    figures = {"MAFT": ".os-proposal img", "SegCLIP": ".os-group img"}.get(title)
    if figures:
        sizes = visitor.page.locator(figures).evaluate_all("a => a.map(x => x.naturalWidth)")
        assert sizes and min(sizes) > 0
    # Narrow windows scroll in one direction only.
    assert visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_example_that_was_clicked_last_wins(visit):
    visitor = visit()
    visitor.method("MAFT")
    visitor.example(1)
    visitor.example(2)
    shown = ""
    for _ in range(2):
        visitor.result(other_than=shown)
        shown = visitor.index()
        if np.array_equal(visitor.picture(), examples()[2].image):
            break
    np.testing.assert_array_equal(visitor.picture(), examples()[2].image)
    words = visitor.page.locator("#os-labels textarea").input_value()
    assert words == ", ".join(examples()[2].labels)


def test_settings_reach_the_method(visit):
    visitor = visit()
    visitor.method("MAFT")
    visitor.page.get_by_text("Settings of the method").click()
    box = visitor.page.locator("[id='os-maft.temperature'] input[type=number]")
    box.wait_for()  # shown with the method's values, which the server tells
    assert float(box.input_value()) == 15  # the miniature's own
    box.fill("50")
    box.press("Tab")
    visitor.page.get_by_text("Background and size").click()
    visitor.page.get_by_label("own texts").check()
    visitor.page.locator("#os-background-texts textarea").fill("sky, snow")
    visitor.example(0)
    visitor.result()
    made = visitor.json("Full JSON")["provenance"]
    # What is also a label does not compete as background.
    assert made["settings"]["temperature"] == 50 and made["background"] == ["snow"]


def test_labels_are_shown_as_they_were_written(visit):
    visitor = visit()
    visitor.upload(drawn(SCENE)[0], "<b>evil</b>.png")
    visitor.label(f'"{EVIL}", doughnut')
    visitor.method("MAFT")
    visitor.segment()
    visitor.result()
    seen = visitor.page.locator("#os-result").inner_text() + visitor.page.locator(
        "#os-inside").inner_text()  # fmt: skip
    assert EVIL in seen
    assert visitor.page.evaluate("window.hacked") is None
    # An error message is HTML to gradio.
    visitor.label(f'"{EVIL * 3}"')
    visitor.segment()
    assert "<img" in visitor.complaint("characters each")
    assert visitor.page.evaluate("window.hacked") is None
