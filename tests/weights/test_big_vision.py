import ml_dtypes
import numpy as np
import pytest
import sentencepiece

from openseg_jax.errors import UserError
from openseg_jax.weights import big_vision, npz
from openseg_jax.weights.load import detect, load_clip
from openseg_jax.weights.tree import export, flatten
from tests.weights.tiny import CLIP_MU, SIGLIP_MU, random_params, same


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A sentencepiece model of a few words, with SigLIP's ids: 1 ends, 2 is unknown."""
    folder = tmp_path_factory.mktemp("sp")
    text = folder / "text.txt"
    text.write_text("a photo of a zebra on the grass\nlemons and photos of zebras\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "m"), vocab_size=40, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return (folder / "m.model").read_bytes()


def arrays(scan=False):
    params = random_params(SIGLIP_MU)
    rows = big_vision.leaves(SIGLIP_MU, scan_image=scan, scan_text=scan)
    return params, dict(export(params, rows))


def test_shapes_are_big_vision_s():
    _, flat = arrays()
    head = "img/MAPHead_0"
    layer = "txt/Encoder_0/encoderblock_1/MultiHeadDotProductAttention_0"
    assert flat["img/embedding/kernel"].shape == (8, 8, 3, 32)
    assert flat["img/pos_embedding"].shape == (1, 16, 32)
    assert flat[f"{head}/probe"].shape == (1, 1, 32)
    assert flat[f"{layer}/query/kernel"].shape == (32, 2, 16)
    assert flat[f"{layer}/query/bias"].shape == (2, 16)
    assert flat[f"{layer}/out/kernel"].shape == (2, 16, 32)
    assert flat["t"].shape == flat["b"].shape == (1,)


@pytest.mark.parametrize("root", ["", "params/", "opt/target/"])
@pytest.mark.parametrize("scan", [False, True])
def test_every_container_is_read(tmp_path, root, scan, sentences):
    params = random_params(SIGLIP_MU)
    path = tmp_path / "siglip.npz"
    big_vision.save_npz(path, params, SIGLIP_MU, root=root, scan=scan)
    (tmp_path / "spiece.model").write_bytes(sentences)
    assert detect(path) == "big_vision"
    loaded = load_clip(path)
    assert loaded.config.vision == SIGLIP_MU.vision
    assert loaded.config.text == SIGLIP_MU.text
    assert loaded.config.logit_bias and loaded.config.embed_dim == 32
    assert same(loaded.params, params)
    assert loaded.preprocess.resize == "squash" and not loaded.preprocess.antialias
    assert (loaded.tokenizer.end, loaded.tokenizer.pad, loaded.tokenizer.context) == (1, 1, 16)


def test_an_optimiser_beside_the_parameters_is_left(tmp_path):
    _, flat = arrays()
    both = {f"params/{k}": v for k, v in flat.items()}
    both |= {f"opt/0/mu/{k}": v for k, v in flat.items()}
    np.savez(tmp_path / "x.npz", **both)
    config, _, report = big_vision.from_arrays(
        npz.read_npz(tmp_path / "x.npz"), name="mu-siglip", file="x.npz"
    )
    assert config == SIGLIP_MU
    assert not report.unexpected


def test_bfloat16_is_viewed_back(tmp_path):
    params, flat = arrays()
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in flat.items()}
    np.savez(tmp_path / "x.npz", **half)
    read = npz.read_npz(tmp_path / "x.npz")
    assert read["img/pos_embedding"].dtype == ml_dtypes.bfloat16
    _, back, report = big_vision.from_arrays(read, name="x", file="x.npz")
    for name, want in flatten(params).items():
        want = np.asarray(want).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(flatten(back)[name], want)
    assert "bfloat16 to float32" in report.text()


def test_numpy_reads_what_we_write(tmp_path):
    params, flat = arrays()
    big_vision.save_npz(tmp_path / "x.npz", params, SIGLIP_MU)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert set(file) == {f"params/{k}" for k in flat}
        for key, want in flat.items():
            np.testing.assert_array_equal(file[f"params/{key}"], want)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda a: a.pop("t"), r"1 missing: t \[1\]"),
        (lambda a: a.update(c=np.zeros(2)), r"1 unexpected: c float64\[2\]"),
        (lambda a: a.update({"txt/head/bias": np.zeros(3)}), r"txt/head/bias: expected \[32\]"),
        (lambda a: a.pop("img/MAPHead_0/probe"), "attention-pooling head"),
        (lambda a: a.update({"img/head/kernel": np.zeros((2, 2))}), "img/head/kernel"),
        (lambda a: a.update({"img/pos_embedding": np.zeros(3)}), "expected 3 axes"),
    ],
)
def test_trouble_is_named(spoil, match):
    _, flat = arrays()
    spoil(flat)
    with pytest.raises(UserError, match=rf"some\.npz: .*{match}"):
        big_vision.from_arrays(flat, name="x", file="some.npz")


def test_objects_and_truncated_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="pickled object"):
        npz.read_npz(path)
    np.savez(path, a=np.zeros(100))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"x\.npz: expected a complete npz file"):
        npz.read_npz(path)
    with pytest.raises(UserError, match="No such file"):
        npz.read_npz(tmp_path / "nowhere.npz")


def test_without_a_tokenizer_the_error_says_which(tmp_path):
    big_vision.save_npz(tmp_path / "x.npz", random_params(SIGLIP_MU), SIGLIP_MU)
    with pytest.raises(UserError, match=r"sentencepiece model.*beside the weights"):
        load_clip(tmp_path / "x.npz")


def test_a_clip_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"expected a SigLIP or LiT.*LayerNorm before the first"):
        big_vision.save_npz(tmp_path / "x.npz", random_params(CLIP_MU), CLIP_MU)
    assert not list(tmp_path.iterdir())
