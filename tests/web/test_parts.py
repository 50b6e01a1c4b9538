"""The parts of the page that know nothing of gradio: HTML, COCO, downloads, controls, models."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from openseg_jax import api, viz
from openseg_jax.errors import UserError
from openseg_jax.methods.car_config import CaRConfig
from openseg_jax.methods.car_trace import Drawing, Step, StepText
from openseg_jax.methods.segclip_groups import Group, Window
from openseg_jax.ops import rle
from openseg_jax.web import controls, html, inside_html, viewer
from openseg_jax.web.coco import coco_data
from openseg_jax.web.controls import controls_of, settings_of
from openseg_jax.web.downloads import downloads
from openseg_jax.web.insides import Insides, Proposal
from openseg_jax.web.models import Models, Programs, allowed
from openseg_jax.web.work import Answer, Task, segment
from tests.cli.fake import FakeSegmenter

EVIL = "<img src=x onerror=alert(1)>\"'${alert(1)}{{constructor}}`</td><script>alert(1)</script>"


def segmentation(names=("red", EVIL, "blue"), kept=("red", EVIL)):
    """Left half red, right half the second name, a row of background."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:, :15], labels[2:, 15:] = 1, 2
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200
    scores = {name: 0.75 if name in kept else 0.0 for name in names}
    models = [{"name": EVIL, "source": "here", "licence": "MIT", "saw": "all", "fingerprint": "f"}]
    record = {"method": "CaR", "models": models, "openseg_jax": "1", "device": "cpu", "x": EVIL}
    return api.Segmentation(image, labels, names, kept, scores, record, (f"note {EVIL}",))


def answer(**inside):
    return Answer(segmentation(), Insides(**inside), 1.0)


class Tags(HTMLParser):
    """Collects the tags of HTML and the attributes of all of them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def everything():
    text, mask = StepText(EVIL, 0.3, False), np.eye(8, dtype=bool)
    picture = np.zeros((8, 8, 3), np.uint8)
    step = Step(
        1, 0.45, (text, StepText("a", 0.9, True)), (Drawing(text, mask, picture),), False, True
    )
    proposal = Proposal(np.ones((20, 30), bool), EVIL, 0.5, 0.25)
    group = Group(0, mask, None, 0.1, EVIL)
    named = dataclasses.replace(group, label=EVIL)
    return [
        viewer.view(segmentation()),
        inside_html.facts(answer()),
        inside_html.inside(answer(steps=[step])),
        inside_html.inside(answer(proposals=[proposal], proposed=7)),
        inside_html.inside(answer(windows=[Window(picture, (group, named))])),
    ]


@pytest.mark.parametrize("page", everything())
def test_words_of_visitors_stay_words(page):
    found = Tags(page)
    assert "script" not in found.tags and "iframe" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert all(v.startswith("data:image/") for n, v in found.attributes if n == "src")
    # What the page's template language reads: nothing of it is left.
    assert "${" not in page and "{{" not in page and "`" not in page
    assert any("onerror" in w for w in (*found.words, *(v or "" for _, v in found.attributes)))


def test_the_words_test_can_fail():
    found = Tags(f"<td>{EVIL}</td>")
    assert "script" in found.tags and any(name == "onerror" for name, _ in found.attributes)


def test_the_view_has_what_its_script_needs():
    page = viewer.view(segmentation(("red", "green", "blue"), ("red", "green")))
    found = Tags(page)
    rows = re.findall(r'data-id="(\d+)" data-colour="(#\w+)" data-name="(\w+)"', page)
    colours = viz.palette(3)
    for place, (number, colour, name) in enumerate(rows, 1):
        assert (number, name) == (str(place), ("red", "green")[place - 1])
        assert bytes.fromhex(colour[1:]) == bytes(colours[place])
    assert len(rows) == 2
    assert "Not found: blue" in page and "45.0 %" in page and "10.0 %" in page
    index = next(
        v for n, v in found.attributes if n == "src" and v.startswith("data:image/png") and v
    )
    assert ("class", "os-index") in found.attributes and index
    assert [v for n, v in found.attributes if n == "download"] == [
        "labels.png", "overlay.png", "coco.json", "result.json",
    ]  # fmt: skip


def test_index_pictures_hold_more_than_256_labels():
    labels = np.array([[0, 1, 255], [256, 511, 70_0]])
    rgb = viewer.index_picture(labels).astype(int)
    np.testing.assert_array_equal(rgb[..., 0] + 256 * rgb[..., 1], labels)


def test_coco_data_is_what_coco_reads():
    data = json.loads(json.dumps(coco_data(segmentation(), "a.png")))
    assert data["images"] == [{"id": 1, "width": 30, "height": 20, "file_name": "a.png"}]
    assert [c["id"] for c in data["categories"]] == [1, 2, 3]
    assert [a["category_id"] for a in data["annotations"]] == [1, 2]
    for found in data["annotations"]:
        mask = rle.decode(found["segmentation"])
        np.testing.assert_array_equal(mask, segmentation().label_map == found["category_id"])
        left, top, width, height = found["bbox"]
        assert mask[top : top + height, left : left + width].sum() == found["area"] == mask.sum()
        assert found["image_id"] == 1 and found["iscrowd"] == 0 and found["score"] == 0.75


def test_downloads_open_again(tmp_path):
    files = {file.name: file for file in downloads(segmentation())}
    path = tmp_path / "labels.png"
    path.write_bytes(files["labels.png"].data)
    labels, names = viz.read_labels(path)
    np.testing.assert_array_equal(labels, segmentation().label_map)
    assert names == ["red", EVIL, "blue"] and Image.open(path).mode == "P"
    assert Image.open(io.BytesIO(files["overlay.png"].data)).width >= 240
    assert json.loads(files["coco.json"].data) == coco_data(segmentation())
    assert json.loads(files["result.json"].data) == segmentation().to_json()


def test_every_control_belongs_to_its_method():
    for method in controls.METHODS:
        keys = [control.key for control in controls_of(method)]
        assert len(set(keys)) == len(keys) >= 2
    assert [c.setting for c in controls_of("car", ("SAM-B",))].count("sam") == 1
    assert "sam" not in [c.setting for c in controls_of("car")]


def test_settings_go_there_and_back():
    config = CaRConfig()
    shown = {c.setting: c.shown(getattr(config, c.setting)) for c in controls_of("car")}
    assert settings_of("car", shown) == {name: getattr(config, name) for name in shown}
    assert settings_of("segclip", {"bg_threshold": 0}) == {"bg_threshold": None}
    assert settings_of("segclip", {"top_classes": 4.0}) == {"top_classes": 4}
    assert settings_of("maft", {"temperature": 14.5}) == {"temperature": 14.5}
    sam = {"mine": "/models/mine"}
    assert settings_of("car", {"sam": "mine"}, sam) == {"sam": "/models/mine"}
    assert settings_of("car", {"sam": "none"}, sam) == {"sam": ""}


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("car", {"mask_threshold": 2}),
        ("car", {"mask_threshold": "0.5"}),
        ("car", {"mask_threshold": float("nan")}),
        ("car", {"mask_threshold": True}),
        ("car", {"visual_prompts": "circle"}),
        ("car", {"visual_prompts": ["../circle"]}),
        ("car", {"sam": "/etc/passwd"}),
        ("car", {"cam_model": "x"}),
        ("clip_dense", {"variant": "/etc"}),
        ("../car", {}),
    ],
)
def test_settings_that_no_page_sends(method, shown):
    with pytest.raises(UserError):
        settings_of(method, shown)
    with pytest.raises(UserError):
        settings_of(method, shown, {"SAM-B": "SAM-B"})


def test_visitors_see_names_of_models_and_never_paths(tmp_path):
    one, two = tmp_path / "a" / "weights", tmp_path / "b" / "weights"
    one.mkdir(parents=True), two.mkdir(parents=True)
    table = allowed(["miniature", str(one), str(two), "ViT-B-16", str(one)])
    assert table == {
        "miniature": "miniature", "weights": str(one), "weights (2)": str(two),
        "ViT-B-16": "ViT-B-16",
    }  # fmt: skip

    def broken(path):
        raise UserError(f"{path}/config.json: no such file")

    models = Models(table, load=broken)
    assert models.veiled({"a": [f"{one}/x", 3]}) == {"a": ["weights/x", 3]}
    with pytest.raises(UserError) as caught:
        models.segmenter("car", "weights", {})
    assert str(caught.value) == "weights/config.json: no such file"
    for name in (str(one), "../weights", "/etc/passwd", "", None):
        with pytest.raises(UserError, match="model: unknown name"):
            models.clip(name)


@pytest.mark.parametrize("given", [".", "..", "mine", "./mine"])
def test_a_model_of_this_folder_spoils_no_sentence(tmp_path, monkeypatch, given):
    (tmp_path / "here" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    models = Models(allowed([given]))
    said = "labels: expected at most 0.5 of mine, got 1.5; see it..."
    assert models.veiled(said) == said
    inside = (tmp_path / "here" / given).resolve()
    assert models.veiled(f"{inside}/x") == f"{inside.name}/x"


def test_the_models_used_last_are_kept():
    loaded = []

    def load(path):
        loaded.append(path)
        return SimpleNamespace(path=path)

    models = Models({"a": "A", "b": "B", "c": "C"}, keep=2, load=load)
    for name in "ababcaca":
        assert models.clip(name).path == name.upper()
    assert loaded == ["A", "B", "C", "A"]


def test_programs_are_dropped_when_there_are_too_many_kinds():
    dropped = []
    programs = Programs(3, clear=lambda: dropped.append(1))
    assert [programs.use("car", i % 3) for i in range(6)] == [True] * 3 + [False] * 3
    assert not dropped
    assert programs.use("car", 3) and dropped == [1]
    assert programs.use("car", 0) and len(dropped) == 1


def test_a_task_is_done_as_the_library_does_it(monkeypatch):
    fake = FakeSegmenter()
    monkeypatch.setattr(Models, "segmenter", lambda self, method, name, settings: fake)
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, :20, 0], image[:, 20:, 1] = 255, 255
    lines = []
    task = Task(image, ["blue", "green", "red"], background=["sky"], merged=["Red"])
    done = segment(task, Models({"miniature": "miniature"}), Programs(), lines.append)
    (expected,) = api.segment_batch(fake, [image], task.names, background=["sky"], merged=["Red"])
    np.testing.assert_array_equal(done.result.label_map, expected.label_map)
    assert done.result.scores == expected.scores and done.result.notes == expected.notes
    assert fake.calls[0] == fake.calls[1] and any("segmenting" in line for line in lines)


def test_other_numbers_of_texts_are_other_kinds_of_work(monkeypatch):
    monkeypatch.setattr(Models, "segmenter", lambda *args: FakeSegmenter())
    programs, image = Programs(), np.zeros((8, 8, 3), np.uint8)

    def new(names, background=None):
        said = []
        task = Task(image, names, background=background)
        segment(task, Models({"miniature": "miniature"}), programs, said.append)
        return any("compiled first" in line for line in said)

    assert new(["red", "green"]) and not new(["red", "green", "blue"])
    assert new([f"n{i}" for i in range(9)]) and not new([f"n{i}" for i in range(16)])
    assert new(["red", "green"], ["sky"] * 9) and not new(["red"], [f"b{i}" for i in range(16)])
    assert new(["red,scarlet"]) and new(["red,scarlet,crimson"]) and not new(["red,rose,ruby"])


def test_labels_times_pixels_are_bounded(monkeypatch):
    monkeypatch.setattr(Models, "segmenter", lambda *args: FakeSegmenter())
    task = Task(np.zeros((900, 900, 3), np.uint8), [f"n{i}" for i in range(256)], max_side=900)
    with pytest.raises(UserError, match="move 'Longest side' to 559 or less"):
        segment(task, Models({"miniature": "miniature"}), Programs())


def test_own_background_texts_count_as_labels_do(monkeypatch):
    monkeypatch.setattr(Models, "segmenter", lambda *args: FakeSegmenter())
    image, texts = np.zeros((900, 900, 3), np.uint8), [f"n{i}" for i in range(50)]
    task = Task(image, texts, max_side=900, background=[f"b{i}" for i in range(206)])
    with pytest.raises(UserError, match=r"labels: 50 and 206 of the background .* to 559 or less"):
        segment(task, Models({"miniature": "miniature"}), Programs())


def test_bars_and_numbers():
    assert (
        html.number(0.004) == "&lt; 0.01"
        and html.number(0) == "0.00"
        and html.number(0.456) == "0.46"
    )
    assert 'width:100.0%"' in html.bar(7) and 'left:45.0%"' in html.bar(0.1, 0.45)


def test_an_example_that_was_clicked_earlier_and_arrives_later_changes_nothing():
    gradio = pytest.importorskip("gradio", reason="run: pip install -e '.[web]'")
    from openseg_jax.web import page

    shown, words, last = page._choose(SimpleNamespace(example=2, at=20.5), 10)
    assert shown is page.examples()[2].image and last == 20.5
    assert words == ", ".join(page.examples()[2].labels)
    late = page._choose(SimpleNamespace(example=1, at=20), last)
    assert late == (gradio.skip(), gradio.skip(), last)
    for at in ("soon", None):
        assert page._choose(SimpleNamespace(example=1, at=at), last)[2] == last
