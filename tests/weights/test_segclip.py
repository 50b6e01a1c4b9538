"""SegCLIP's checkpoint converter, on a synthetic file with exactly the published keys."""

import functools
import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from openseg_jax.cli import main as cli
from openseg_jax.errors import UserError
from openseg_jax.models.segclip import SegCLIPConfig
from openseg_jax.models.variants import variant
from openseg_jax.tasks.segclip import FROZEN
from openseg_jax.train.optim import trainable_names
from openseg_jax.weights.load import load_clip
from openseg_jax.weights.segclip import (
    MARK,
    POSITIONS,
    clip_part,
    config_from_state,
    leaves,
    segclip_spec,
    start_from_clip,
    to_state_dict,
)
from openseg_jax.weights.segclip_folder import segclip_of
from openseg_jax.weights.torch_zip import read_torch_zip
from openseg_jax.weights.tree import flatten, param_spec, unflatten
from tests.weights.test_torch_zip import archive, dictionary, tensor
from tests.weights.tiny import CLIP_MU, random_params, same

FILE = json.loads((Path(__file__).parent / "segclip_keys.json").read_text())
KEYS = {name: tuple(shape) for name, shape in FILE["state_dict"].items()}


@functools.cache
def scaled():
    """Divides every width by 8; grids, centres, context and the pixels of a patch stay."""

    def one(name, axis, n):
        pixels = "decoder_pred" in name and axis == 0
        return n if pixels or n % 64 else n // 8

    return {
        name: tuple(one(name, axis, n) for axis, n in enumerate(shape))
        for name, shape in KEYS.items()
    }


def write(path, shapes, *, full=False):
    """Writes a checkpoint whose tensors are pieces of one storage.

    Args:
        shapes: by name.
        full: one number a tensor (strides of 0), so that full-size shapes cost nothing on disk.
    """
    base = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)
    items = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        stride = [0 if full else int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        offset = zlib.crc32(name.encode()) % (len(base) - (1 if full else size))
        items[name] = tensor("0", "FloatStorage", len(base), offset, shape, stride)
    return archive(path, dictionary(items), {"0": base})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("segclip") / "segclip.bin", scaled())


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_clip(checkpoint)


def shapes_only(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_every_tensor_arrives(checkpoint, loaded):
    source = read_torch_zip(checkpoint)
    config, params = segclip_of(loaded)
    assert config.first_blocks == 10 and config.clip.vision.heads == 12
    back = dict(to_state_dict(config, params))
    assert set(back) == set(source) == set(KEYS) and len(KEYS) == 415
    for name, array in back.items():
        if name != POSITIONS:
            np.testing.assert_array_equal(array, np.asarray(source[name]), err_msg=name)
    report = loaded.report
    assert [line.split(" ")[0] for line in report.ignored] == [POSITIONS]
    assert not report.missing and not report.unexpected and not report.mismatched
    assert report.parameters == sum(x.size for x in flatten(params).values())


def test_the_published_architecture_is_read_off_the_shapes():
    config = config_from_state(shapes_only(KEYS))
    clip = config.clip
    want = variant("ViT-B-16")
    assert config == SegCLIPConfig(clip)
    assert clip.text == want.text and clip.embed_dim == want.embed_dim
    assert {**vars(clip.vision), "pos_resample": ""} == {**vars(want.vision), "pos_resample": ""}
    total = sum(int(np.prod(x.shape)) for x in segclip_spec(config).values())
    assert total + int(np.prod(KEYS[POSITIONS])) == sum(int(np.prod(s)) for s in KEYS.values())


def test_what_trains_is_what_the_reference_trains():
    config = config_from_state(shapes_only(KEYS))
    spec = segclip_spec(config)
    trained = trainable_names(FROZEN, spec)
    ours = set()
    for leaf in leaves(config):
        if leaf.target in trained:
            count = spec[leaf.target].shape[0] if leaf.per_block else 1
            ours |= {leaf.source.format(i=i) for i in range(count)}
    assert ours == set(FILE["requires_grad"])


def test_a_start_from_clip_says_what_is_new():
    """The 113 tensors that the reference draws are those that we draw."""
    config = SegCLIPConfig(variant("ViT-B-16"))
    clip = shapes_only({n: x.shape for n, x in param_spec(config.clip).items()})
    taken = set(clip_part(config, unflatten(clip)))
    spec = segclip_spec(config)
    new = set()
    for leaf in leaves(config):
        if leaf.target not in taken:
            count = spec[leaf.target].shape[0] if leaf.per_block else 1
            new |= {leaf.source.format(i=i) for i in range(count)}
    assert new | {POSITIONS} == set(FILE["new"]) and len(FILE["new"]) == 113


@pytest.fixture(scope="module")
def small():
    return SegCLIPConfig(
        CLIP_MU, first_blocks=1, centers=3, cross_layers=1, recon_blocks=1, decoder_width=8,
        decoder_depth=1, decoder_heads=2, mask_ratio=0.5,
    )  # fmt: skip


@pytest.mark.slow
def test_a_start_from_clip_keeps_the_clip(small):
    clip = random_params(CLIP_MU)
    start = start_from_clip(small, clip, jax.random.key(0))
    flat, theirs = flatten(start.params), flatten(clip)
    assert set(start.taken) | set(start.new) == set(segclip_spec(small)) == set(flat)
    for name in theirs:
        got = flat[name]
        if name.startswith("visual/blocks/"):
            after = flat[name.replace("visual/blocks/", "visual/blocks_after/")]
            got = np.concatenate([got, after])
        np.testing.assert_array_equal(got, theirs[name], err_msg=name)
    assert "new" in start.text() and "visual/group/center_embedding" in start.text()
    kernel = flat["visual/blocks_recon/mlp/c_fc/kernel"]
    assert 0.01 < np.std(kernel) < 0.03
    with pytest.raises(UserError, match="conv1"):
        wide = unflatten({**theirs, "visual/conv1/kernel": np.zeros((8, 8, 3, 64), "f4")})
        start_from_clip(small, wide, jax.random.key(0))


def change(kind):
    shapes = dict(scaled())
    name = "clip.visual.transformer.layers0.3.mlp.c_fc.weight"
    if kind == "missing":
        del shapes[name]
    elif kind == "shape":
        shapes[name] = (*shapes[name], 2)
    elif kind == "extra":
        shapes["clip.visual.strange"] = (3,)
    elif kind == "decoder":
        shapes = {k: s for k, s in shapes.items() if not k.startswith("vis_mae_decoder.")}
    elif kind == "centers":
        shapes[MARK] = (8,)
    return shapes


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 missing: clip.visual.transformer.layers0.3.mlp.c_fc.weight \[384 96\]"),
        ("shape", r"layers0.3.mlp.c_fc.weight: expected \[384 96\], found float32\[384 96 2\]"),
        ("extra", r"1 unexpected: clip.visual.strange"),
        ("decoder", r"vis_mae_decoder.decoder_embed.weight"),
        ("centers", r"semantic_center: expected 2 axes, found float32\[8\]"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, kind, message):
    path = write(tmp_path / "broken.bin", change(kind))
    with pytest.raises(UserError, match=message) as error:
        load_clip(path)
    assert "broken.bin" in str(error.value)


def test_convert_writes_a_folder_that_loads(tmp_path, checkpoint, loaded, capsys):
    folder = tmp_path / "segclip"
    assert cli.main(["convert", str(checkpoint), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "ignored" in out and "captions" in out
    again = load_clip(folder)
    assert segclip_of(again)[0] == segclip_of(loaded)[0]
    assert same(again.params, loaded.params)
    assert same(again.extras["segclip"], loaded.extras["segclip"])


@pytest.mark.slow
def test_the_published_shapes_in_full(tmp_path):
    loaded = load_clip(write(tmp_path / "segclip.bin", KEYS, full=True))
    config, params = segclip_of(loaded)
    assert config.clip.vision.width == 768 and loaded.report.parameters == 188_723_913
    assert {n: x.shape for n, x in flatten(params).items()} == {
        n: x.shape for n, x in segclip_spec(config).items()
    }
