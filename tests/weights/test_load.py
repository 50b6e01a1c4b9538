import argparse
import importlib
import json
import math

import numpy as np
import pytest

from openseg_jax.cli import convert as convert_verb
from openseg_jax.cli import models as models_verb
from openseg_jax.errors import UserError
from openseg_jax.models.clip import CLIP
from openseg_jax.models.variants import VARIANTS
from openseg_jax.weights import big_vision, npz, openai, registry
from openseg_jax.weights.folder import save_folder
from openseg_jax.weights.load import detect, load_clip, resize_clip
from openseg_jax.weights.safetensors import write_safetensors
from openseg_jax.weights.tree import param_spec
from tests.weights import test_open_clip
from tests.weights.test_torch_zip import archive, bag, dictionary, name, program, simple
from tests.weights.tiny import (
    CLIP_MU,
    PREPROCESS,
    PROVENANCE,
    SIGLIP_MU,
    random_params,
    same,
    tokenizer,
)

# Published counts: OpenAI's and LAION's by open_clip's profile, SigLIP's by field measurement.
PARAMETERS = {
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193,
    "ViT-H-14": 986_109_441,
    "SigLIP-B-16": 203_155_970,
}


def state():
    return dict(openai.to_state_dict(random_params(CLIP_MU)))


def write_script(path, arrays):
    """Writes a TorchScript archive with OpenAI's names, as nested modules."""
    keys = {key: str(i) for i, key in enumerate(arrays)}
    nested = {}
    for key in arrays:
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = key

    def write(node):
        return bag(
            {
                k: write(v) if isinstance(v, dict) else simple(arrays[v], keys[v])
                for k, v in node.items()
            }
        )

    storages = {keys[k]: np.ascontiguousarray(v) for k, v in arrays.items()}
    return archive(path, write(nested), storages, {"constants.pkl": program(b")")})


def test_openai_s_archive_is_told_by_content(tmp_path):
    arrays = {k: v.astype(np.float16) for k, v in state().items()}
    arrays["input_resolution"] = np.array(32)
    path = write_script(tmp_path / "ViT-mu.bin", arrays)
    assert detect(path) == "openai"
    loaded = load_clip(path)
    assert loaded.config.vision.act == loaded.config.text.act == "quick_gelu"
    assert loaded.config.vision.image_size == 32
    assert loaded.provenance["licence"] == "MIT"
    assert loaded.report.ignored == ["input_resolution int64[]"]
    want = random_params(CLIP_MU)["visual"]["proj"]["kernel"]
    np.testing.assert_array_equal(
        loaded.params["visual"]["proj"]["kernel"], want.astype(np.float16).astype(np.float32)
    )
    # The archive has no tokenizer: CLIP's own ships with the package.
    assert loaded.tokenizer.encode(["a"])[0, 0] == 49406


def test_a_bare_state_dict_must_be_named(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "mu", CLIP_MU)
    torch_file = archive(
        tmp_path / "x.pt",
        dictionary({k: simple(v, k) for k, v in state().items()}),
        state(),
    )
    write_safetensors(tmp_path / "x.safetensors", state())
    for path in (torch_file, tmp_path / "x.safetensors"):
        assert detect(path) == "bare"
        with pytest.raises(UserError, match="does not say its activation"):
            load_clip(path)
        loaded = load_clip(path, model="mu")
        assert loaded.config == CLIP_MU
        assert same(loaded.params, random_params(CLIP_MU))
        with pytest.raises(UserError, match=r"x\.\w+: the weights do not fit"):
            load_clip(path, model="ViT-B-16")
        with pytest.raises(UserError, match="CLIP variant"):
            load_clip(path, model="ViT-B-17")
        with pytest.raises(UserError, match="give SigLIP's folder"):
            load_clip(path, model="SigLIP-B-16")


def test_transformers_names_alone_are_not_enough(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"vision_model.a": np.ones(1, np.float32)})
    with pytest.raises(UserError, match=r"without their config\.json"):
        load_clip(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("/no/such/folder", "no such file"),
        ("./nowhere", "no such file"),
        ("x.pt", "no such file"),
        ("ViT-B-61", "did you mean 'ViT-B-16'"),
        ("miniatur", "did you mean 'miniature'"),
    ],
)
def test_wrong_names_and_paths(what, match):
    with pytest.raises(UserError, match=match):
        load_clip(what)


def test_empty_and_strange_files_are_named(tmp_path):
    with pytest.raises(UserError, match="expected a model folder"):
        load_clip(tmp_path)
    for content in (b"", b"hello", b"\x80\x04."):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match="found no zip file"):
            load_clip(tmp_path / "x")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: expected JSON"):
        load_clip(tmp_path)


def test_names_without_network_say_how_to_get_them(monkeypatch):
    def refuse(entry, stem, *, local):
        raise OSError("no route to host")

    monkeypatch.setattr(registry, "_snapshot", refuse)
    with pytest.raises(UserError) as error:
        load_clip("ViT-B/16")
    for word in ("ViT-B-16", "no route to host", "hf download timm/", "--model miniature"):
        assert word in str(error.value)


def test_names_resolve_through_the_cache(tmp_path, monkeypatch):
    save_folder(
        tmp_path / "c", CLIP_MU, random_params(CLIP_MU), PREPROCESS, tokenizer(), PROVENANCE
    )
    monkeypatch.setattr(registry, "find_weights", lambda folder, stems: folder)
    monkeypatch.setattr(registry, "_snapshot", lambda entry, stem, local: tmp_path / "c")
    loaded = load_clip("ViT-L/14@336px")
    assert loaded.config.name == "ViT-L-14-336"
    assert loaded.provenance == registry.KNOWN["ViT-L-14-336"].provenance()


def test_names_are_found_in_a_real_cache_without_network(tmp_path, monkeypatch):
    # The package loads its parts lazily: `constants` is no attribute until something imports it.
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    entry = registry.KNOWN["ViT-B-16"]
    assert registry.cached_folder(entry) is None
    with pytest.raises(UserError, match="not in the local cache"):
        load_clip("ViT-B-16")
    repo = tmp_path / f"models--{entry.repo.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    assert registry.cached_folder(entry) is None, "a snapshot without weights is not enough"
    test_open_clip.write(snapshot)
    assert registry.cached_folder(entry) == snapshot
    loaded = load_clip("ViT-B/16")
    assert loaded.config.vision == CLIP_MU.vision
    assert "400 M" in loaded.provenance["saw"]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_has_its_published_size(variant):
    count = sum(math.prod(leaf.shape) for leaf in param_spec(VARIANTS[variant]).values())
    assert count == PARAMETERS.get(variant, count)
    for entry in registry.KNOWN.values():
        if entry.variant == variant:
            assert abs(entry.parameters - count / 1e6) < 0.06


def test_every_known_name_is_complete():
    for entry in registry.KNOWN.values():
        assert entry.variant in VARIANTS
        assert entry.repo.count("/") == 1
        assert all(entry.provenance().values())


def call(verb, *words):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args(list(words)))


def test_convert_prints_the_report_and_writes_a_folder(tmp_path, capsys):
    path = write_script(tmp_path / "mu.pt", state())
    code = call(
        convert_verb, str(path), str(tmp_path / "out"), "--dtype", "float16", "--model", "M"
    )
    assert code == 0
    printed = capsys.readouterr().out
    for word in ("loaded", "unexpected", "parameters", "400 M image-text pairs"):
        assert word in printed
    loaded = load_clip(tmp_path / "out")
    assert loaded.config.name == loaded.provenance["name"] == "M"
    assert loaded.config.vision == load_clip(path).config.vision
    assert len(loaded.report.cast) == len(loaded.report.loaded)


@pytest.mark.slow
def test_convert_can_resample_positions(tmp_path, capsys):
    path = write_script(tmp_path / "mu.pt", state())
    assert call(convert_verb, str(path), str(tmp_path / "out"), "--image-size", "48") == 0
    assert "4² to 6²" in capsys.readouterr().out
    small, large = load_clip(path), load_clip(tmp_path / "out")
    assert (large.config.vision.image_size, large.preprocess.size) == (48, 48)
    # What the small model does at 48 pixels is what the large one does at its own size.
    image = np.random.default_rng(0).normal(size=(1, 48, 48, 3)).astype(np.float32)
    small_out, large_out = (
        x.model().apply({"params": x.params}, image, method=CLIP.encode_image)
        for x in (small, large)
    )
    np.testing.assert_allclose(large_out, small_out, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="multiple of the patch size 8, got 50"):
        resize_clip(small, 50)
    assert resize_clip(small, 32) is small


def test_convert_spares_what_is_not_ours(tmp_path):
    path = write_script(tmp_path / "mu.pt", state())
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    for target in (theirs, path):
        with pytest.raises(UserError, match="name another folder"):
            call(convert_verb, str(path), str(target))
    assert (theirs / "thesis.txt").read_text() == "years of work"
    ours = tmp_path / "ours"
    for dtype in ("float32", "float16"):
        assert call(convert_verb, str(path), str(ours), "--dtype", dtype) == 0
    with pytest.raises(UserError, match="source and target are the same"):
        call(convert_verb, str(ours), str(ours))


def test_convert_of_something_broken_writes_nothing(tmp_path):
    broken = state()
    del broken["ln_final.bias"]
    path = write_script(tmp_path / "mu.pt", broken)
    with pytest.raises(UserError, match=r"mu\.pt.*ln_final\.bias"):
        call(convert_verb, str(path), str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["mu.pt"]


def test_a_malicious_file_stays_refused_through_load_clip(tmp_path):
    path = archive(tmp_path / "x.pt", name("os", "system") + b"(" + b"\x8c\x02ls" + b"tR")
    with pytest.raises(UserError, match=r"x\.pt: refused: this pickle tries to call os\.system"):
        load_clip(path)


def test_models_lists_source_licence_and_what_was_seen(capsys, monkeypatch):
    monkeypatch.setattr(models_verb, "cached_folder", lambda entry: None)
    assert call(models_verb, "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(registry.KNOWN) <= set(listed)
    for row in listed.values():
        assert row["source"] and row["licence"] and row["saw"] and row["megabytes"] > 0
    assert call(models_verb) == 0
    table = capsys.readouterr().out
    assert "ViT-L-14-336" in table and "Apache-2.0" in table and "LAION-2B" in table


def test_npz_written_from_a_folder_is_the_same_model(tmp_path):
    params = random_params(SIGLIP_MU)
    big_vision.save_npz(tmp_path / "x.npz", params, SIGLIP_MU)
    _, back, _ = big_vision.from_arrays(npz.read_npz(tmp_path / "x.npz"), name="x", file="x")
    assert same(params, back)
