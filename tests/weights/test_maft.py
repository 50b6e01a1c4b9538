"""MAFT's checkpoint converter, on a synthetic file with the published keys and shapes."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.models.generator import VARIANTS, GeneratorConfig
from openseg_jax.weights import maft, openai
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.torch_zip import read_torch_zip
from openseg_jax.weights.tree import export, flatten
from tests.weights.test_torch_zip import archive, dictionary, number, tensor

KEYS = json.loads((Path(__file__).parent / "maft_ckpt_keys.json").read_text())
IGNORED = ("T.", "criterion.", "clip_adapter.pixel_")
QUERY = "sem_seg_head.predictor.query_feat.weight"


@functools.cache
def scaled() -> dict[str, tuple[int, ...]]:
    """Divides every width by 8; grids, counts and what heads times points give stay."""

    def one(name, n):
        fixed = "sampling_offsets" in name or "attention_weights" in name
        return n // 8 if n % 64 == 0 and not (fixed and n == KEYS[name][0] and n < 256) else n

    return {name: tuple(one(name, n) for n in shape) for name, shape in KEYS.items()}


def write(path, shapes, *, full=False, wrap=True):
    """Writes a checkpoint as detectron2 does; every tensor is a piece of one storage.

    Args:
        shapes: by name.
        full: one number a tensor (strides of 0), so that full-size shapes cost nothing on disk.
        wrap: put the tensors under "model", beside an iteration.
    """
    base = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)
    items = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        stride = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        offset = zlib.crc32(name.encode()) % (len(base) - (1 if full else size))
        stride = [0] * len(shape) if full else stride
        items[name] = tensor("0", "FloatStorage", len(base), offset, shape, stride)
    # A pickle's integers of four bytes hold all of these.
    body = dictionary(items)
    if wrap:
        body = dictionary({"model": body, "iteration": number(999)})
    return archive(path, body, {"0": base})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("maft") / "MAFT_Vitb.pt", scaled())


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_clip(checkpoint)


def sources(loaded, query="query_feat"):
    """Writes everything that was loaded back under the checkpoint's names."""
    extra = dict(loaded.extras["maft"])
    config = GeneratorConfig.from_dict(loaded.extras_config["maft"]["generator"])
    back = {maft.CLIP + k: x for k, x in export(loaded.params, openai.LEAVES)}
    back |= dict(export({"generator": extra["generator"]}, maft.generator_leaves(config, query)))
    back["clip_adapter.non_object_embedding"] = extra["non_object"]
    if "visual" in extra:
        found = export({"visual": extra["visual"]}, openai.vision_leaves())
        back |= {maft.TUNED + k.removeprefix("visual."): x for k, x in found}
    return back


def test_every_tensor_arrives_or_is_ignored_by_name(checkpoint, loaded):
    source, back = read_torch_zip(checkpoint), sources(loaded)
    assert len(source) == len(KEYS) == 1465
    for name, array in back.items():
        np.testing.assert_array_equal(array, np.asarray(source[name]), err_msg=name)
    left = set(source) - set(back)
    assert left and all(name.startswith(IGNORED) for name in left)
    report = loaded.report
    assert {line.split(" ")[0] for line in report.ignored} == left
    assert not report.missing and not report.unexpected and not report.mismatched
    leaves = flatten(loaded.params) | flatten(loaded.extras["maft"])
    assert report.parameters == sum(x.size for x in leaves.values()) + sum(
        # Names that the CLIP and the tuned tower share.
        flatten(loaded.params)[name].size
        for name in set(flatten(loaded.params)) & set(flatten(loaded.extras["maft"]))
    )


def test_the_published_sizes_are_read_off_the_shapes():
    class Shape:
        def __init__(self, shape):
            self.shape, self.dtype = tuple(shape), "float32"

    config = maft.generator_config({k: Shape(v) for k, v in KEYS.items()})
    assert config == VARIANTS["r101"]


def test_settings_travel(loaded):
    settings = loaded.extras_config["maft"]
    assert (settings["start"], settings["temperature"], settings["size"]) == (8, 100.0, 480)
    assert loaded.config.vision.image_size == 224


def test_freeseg_and_older_names(tmp_path):
    shapes = {k: v for k, v in scaled().items() if not k.startswith(("IPCLIP.", "T."))}
    shapes = {k.replace("query_feat", "static_query"): v for k, v in shapes.items()}
    path = write(tmp_path / "freeseg.pth", shapes, wrap=False)
    loaded = load_clip(path)
    assert set(loaded.extras["maft"]) == {"generator", "non_object"}
    source, back = read_torch_zip(path), sources(loaded, "static_query")
    name = QUERY.replace("query_feat", "static_query")
    np.testing.assert_array_equal(back[name], np.asarray(source[name]))


def change(kind):
    shapes = dict(scaled())
    if kind == "missing":
        del shapes[QUERY]
    if kind == "unexpected":
        shapes["sem_seg_head.predictor.more.weight"] = (3,)
    if kind == "shape":
        shapes[QUERY] = (99, 32)
    if kind == "tower":
        del shapes["IPCLIP.ln_post.bias"]
    if kind == "sizes":
        del shapes["sem_seg_head.interaction.attn.q_proj.weight"]
    return shapes


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 missing: sem_seg_head\.predictor\.query_feat\.weight \[100 32\]"),
        ("unexpected", r"1 unexpected: sem_seg_head\.predictor\.more\.weight float32\[3\]"),
        ("shape", r"query_feat\.weight: expected \[100 32\], found float32\[99 32\]"),
        ("tower", r"1 missing: IPCLIP\.ln_post\.bias \[96\]"),
        ("sizes", r"interaction\.attn\.q_proj\.weight: expected 2 axes, found nothing"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, kind, message):
    path = write(tmp_path / "MAFT.pth", change(kind))
    with pytest.raises(UserError, match=rf"MAFT\.pth.*{message}"):
        load_clip(path)


def test_convert_writes_a_folder_that_loads(tmp_path, checkpoint, loaded, capsys):
    assert cli.main(["convert", str(checkpoint), str(tmp_path / "maft")]) == 0
    assert "ignored" in capsys.readouterr().out
    back = load_clip(tmp_path / "maft")
    for tree in ("params", "extras"):
        got, want = flatten(getattr(back, tree)), flatten(getattr(loaded, tree))
        assert list(got) == list(want)
        assert all(np.array_equal(got[k], want[k]) for k in want)
    assert GeneratorConfig.from_dict(
        back.extras_config["maft"]["generator"]
    ) == GeneratorConfig.from_dict(loaded.extras_config["maft"]["generator"])


@pytest.mark.slow
def test_the_published_shapes_in_full(tmp_path):
    loaded = load_clip(write(tmp_path / "MAFT_Vitb.pt", KEYS, full=True))
    want = sum(int(np.prod(v)) for k, v in KEYS.items() if not k.startswith(IGNORED))
    assert loaded.report.parameters == want
    config = GeneratorConfig.from_dict(loaded.extras_config["maft"]["generator"])
    assert config == VARIANTS["r101"]
    assert loaded.config.vision.heads == 12 and loaded.config.vision.depth == 12
