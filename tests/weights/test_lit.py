"""LiT's class token and BERT, names of older files, and NaFlex."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.clip import CLIP
from openseg_jax.ops.posembed import resample_positions
from openseg_jax.weights import big_vision, npz
from openseg_jax.weights.big_vision_names import BERT, BERT_LAYERS
from openseg_jax.weights.folder import load_folder, save_folder
from openseg_jax.weights.load import load_clip
from tests.weights.lit import LIT_BERT_MU, LIT_MU, WORD_PIECES
from tests.weights.tiny import PROVENANCE, SIGLIP_MU, random_params, same
from tests.weights.torch_side import libraries

TEXT = LIT_BERT_MU.text


def written(tmp_path, config, **how):
    params = random_params(config)
    big_vision.save_npz(tmp_path / "x.npz", params, config, root="", **how)
    with np.load(tmp_path / "x.npz") as file:
        return params, dict(file)


def read(tmp_path, arrays, root=""):
    np.savez(tmp_path / "y.npz", **{f"{root}{name}": x for name, x in arrays.items()})
    return big_vision.from_arrays(npz.read_npz(tmp_path / "y.npz"), name="x", file="y.npz")


def encode_text(config, params, ids):
    run = jax.jit(
        lambda p: CLIP(config).apply({"params": p}, jnp.asarray(ids), method="encode_text")
    )
    with jax.default_matmul_precision("highest"):
        return np.asarray(run(params))


@pytest.fixture(scope="module")
def bert():
    """A random BERT of transformers, its arrays by flaxformer's names, ids and what it says."""
    torch, transformers = libraries()
    config = transformers.BertConfig(
        vocab_size=TEXT.vocab_size, hidden_size=TEXT.width, num_hidden_layers=TEXT.depth,
        num_attention_heads=TEXT.heads, intermediate_size=TEXT.mlp_width,
        max_position_embeddings=TEXT.context, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5)
            if "LayerNorm.weight" in name:
                parameter.add_(1)
    ids = np.zeros((3, 16), np.int64)
    for row, length in zip(ids, (2, 9, 16), strict=True):
        row[:length] = np.random.default_rng(length).integers(1, TEXT.vocab_size, length)
    with torch.no_grad():
        ids_, mask = torch.tensor(ids), torch.tensor(ids != 0)
        want = model(input_ids=ids_, attention_mask=mask).last_hidden_state[:, 0].numpy()
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    arrays = {}

    def take(name, source, kernel="kernel"):
        arrays[f"{name}/{kernel}"] = (
            state[f"{source}.weight"].T if kernel == "kernel" else state[f"{source}.weight"]
        )
        arrays[f"{name}/bias"] = state[f"{source}.bias"]

    for ours, theirs in (("token", "word"), ("position", "position"), ("segment", "token_type")):
        table = state[f"embeddings.{theirs}_embeddings.weight"]
        arrays[f"{BERT}/embedder/embedders_{ours}_ids/embedding"] = table
    take(f"{BERT}/layer_norm", "embeddings.LayerNorm", "scale")
    for i in range(TEXT.depth):
        layer, source = f"{BERT_LAYERS}/layers_{i}", f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            there = f"{layer}/attention_block/attention_layer/{name}"
            take(there, f"{source}.attention.self.{name}")
        take(f"{layer}/attention_block/dense_layer", f"{source}.attention.output.dense")
        take(f"{layer}/attention_block/layer_norm", f"{source}.attention.output.LayerNorm", "scale")
        take(f"{layer}/mlp_block/mlp/dense_layer", f"{source}.intermediate.dense")
        take(f"{layer}/mlp_block/dense_layer", f"{source}.output.dense")
        take(f"{layer}/mlp_block/layer_norm", f"{source}.output.LayerNorm", "scale")
    return arrays, ids, want


@pytest.mark.parametrize("root", big_vision.ROOTS)
def test_lit_with_a_bert_computes_what_bert_does(tmp_path, bert, root):
    """Under the bare root; under the others it is read the same."""
    arrays, ids, hidden = bert
    _, lit = written(tmp_path, LIT_BERT_MU)
    lit = {name: x for name, x in lit.items() if not name.startswith(BERT)} | arrays
    config, params, report = read(tmp_path, lit, root)
    assert dataclasses.replace(config, name=LIT_BERT_MU.name) == LIT_BERT_MU
    assert not report.unexpected
    if root:
        return
    want = hidden @ lit["txt/head/kernel"] + lit["txt/head/bias"]
    got = encode_text(config, params, ids)
    assert np.abs(got - want).max() / want.std() < 1e-5
    for wrong in ({"act": "gelu"}, {"eps": 1e-3}, {"pool": "argmax"}):
        text = dataclasses.replace(config.text, **wrong)
        other = encode_text(dataclasses.replace(config, text=text), params, ids)
        assert np.abs(other - want).max() / want.std() > 3e-5, wrong


def test_padding_of_a_bert_changes_nothing():
    params = random_params(LIT_BERT_MU)
    ids = np.array([[2, 4, 7, 0, 0, 0], [2, 9, 0, 0, 0, 0]], np.int32)
    short, long = (
        encode_text(LIT_BERT_MU, params, ids[:, :3]),
        encode_text(LIT_BERT_MU, params, ids),
    )
    np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-5)


def test_a_lit_goes_round_through_npz_and_folder(tmp_path):
    params = random_params(LIT_BERT_MU)
    path = tmp_path / "LiT-mu.npz"
    big_vision.save_npz(path, params, LIT_BERT_MU, dtype="float32")
    with pytest.raises(UserError, match=r"word pieces \(LiT-mu.txt or vocab.txt\)"):
        load_clip(path)
    (tmp_path / "LiT-mu.txt").write_text("\n".join(WORD_PIECES[1:]) + "\n")
    with pytest.raises(UserError, match=r"\[PAD\] first"):
        load_clip(path)
    (tmp_path / "LiT-mu.txt").write_text("\n".join(WORD_PIECES) + "\n")
    loaded = load_clip(path)
    rows = loaded.tokenizer.encode(["A photo of zebras!", "grass " * 20])
    assert rows.shape == (2, 16)
    assert rows[0].tolist() == [2, 4, 5, 6, 7, 8, 10] + [0] * 9
    assert rows[1].tolist() == [2] + [9] * 15
    assert loaded.tokenizer.decode(rows[0]) == "a photo of zebras!"
    table = np.asarray(params["visual"]["positional_embedding"])
    again = np.asarray(loaded.params["visual"]["positional_embedding"])
    np.testing.assert_array_equal(again[1:], table[1:])
    assert not again[0].any()
    total = table[0] + params["visual"]["class_embedding"]
    np.testing.assert_array_equal(loaded.params["visual"]["class_embedding"], total)
    parts = (loaded.preprocess, loaded.tokenizer, PROVENANCE)
    save_folder(tmp_path / "folder", loaded.config, loaded.params, *parts)
    back = load_folder(tmp_path / "folder")
    assert same(back.params, loaded.params) and back.config == loaded.config
    np.testing.assert_array_equal(back.tokenizer.encode(["zebra of grass"])[0, :5], [2, 7, 6, 9, 0])


def test_names_before_linen_are_understood(tmp_path):
    params, arrays = written(tmp_path, LIT_MU)
    old = {
        "LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3",
        "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    }  # fmt: skip
    renamed = {}
    for name, x in arrays.items():
        parts = name.split("/")
        if any(p.startswith("encoderblock") for p in parts):
            parts = [old.get(p, p) for p in parts]
        renamed["/".join(parts)] = x
    # The oldest keep the class token's position in the table, inside of the encoder.
    first = np.asarray(params["visual"]["positional_embedding"])[0]
    table = np.concatenate([first[None, None], renamed.pop("img/pos_embedding")], axis=1)
    renamed["img/Transformer/posembed_input/pos_embedding"] = table
    renamed["img/cls"] = renamed["img/cls"] - first
    config, back, _ = read(tmp_path, renamed)
    assert config.vision == LIT_MU.vision
    visual = back["visual"]
    np.testing.assert_array_equal(visual["positional_embedding"][0], first)
    want = np.asarray(params["visual"]["class_embedding"])
    np.testing.assert_allclose(visual["class_embedding"], want, atol=1e-6)
    assert same(back["text"], params["text"])
    assert same(visual["blocks"], params["visual"]["blocks"])


def test_an_inlined_head_and_a_second_table_are_understood(tmp_path):
    params, arrays = written(tmp_path, SIGLIP_MU)
    inlined = {name.replace("img/MAPHead_0/", "img/"): x for name, x in arrays.items()}
    inlined["txt/Encoder_0/pos_embedding"] = np.ones_like(arrays["txt/pos_embedding"])
    inlined["txt/pos_embedding"] = arrays["txt/pos_embedding"] - 1
    _, back, _ = read(tmp_path, inlined)
    assert same(back["visual"], params["visual"])
    got, want = back["text"], params["text"]
    np.testing.assert_allclose(got["positional_embedding"], want["positional_embedding"], atol=1e-6)


def test_naflex_becomes_the_vit_of_its_own_grid(tmp_path):
    params, arrays = written(tmp_path, SIGLIP_MU, scan=True)
    v = SIGLIP_MU.vision
    flat = dict(arrays)
    flat["img/embedding/kernel"] = arrays["img/embedding/kernel"].reshape(-1, v.width)
    flat["img/pos_embedding"] = arrays["img/pos_embedding"].reshape(v.grid, v.grid, v.width)
    config, back, _ = read(tmp_path, flat)
    assert same(back, params)
    assert config.vision == dataclasses.replace(v, pos_resample="bilinear_antialias")


@pytest.mark.parametrize("grid", [(3, 3), (6, 2), (4, 4), (9, 7)])
def test_naflex_positions_are_resampled_as_jax_does(grid):
    table = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    got = resample_positions(jnp.asarray(table), grid, convention="bilinear_antialias", prefix=0)
    want = jax.image.scale_and_translate(
        table.reshape(4, 4, 8), (*grid, 8), (0, 1), jnp.asarray(grid) / 4.0, jnp.zeros(2),
        "bilinear", antialias=True,
    )  # fmt: skip
    np.testing.assert_allclose(got, want.reshape(-1, 8), atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda a: a.update({"img/pos_embedding": np.zeros((1, 15, 32))}), "square"),
        (lambda a: a.pop("img/cls"), "supported are two towers"),
        (lambda a: a.update({"txt/head/kernel": np.zeros((32, 8))}), "expected img/head"),
        (lambda a: a.update({"img/pre_logits/kernel": np.zeros((2, 2))}), "1 unexpected"),
        (lambda a: a.update({"txt/MAPHead_0/probe": np.zeros((1, 1, 2))}), "1 unexpected"),
    ],
)
def test_what_a_lit_must_not_be_is_named(tmp_path, spoil, match):
    _, arrays = written(tmp_path, LIT_MU)
    spoil(arrays)
    with pytest.raises(UserError, match=rf"y\.npz: .*{match}"):
        read(tmp_path, arrays)


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    text = dataclasses.replace(TEXT, vocab_size=400)
    config = dataclasses.replace(LIT_BERT_MU, text=text)
    big_vision.save_npz(tmp_path / "x.npz", random_params(config), config)
    (tmp_path / "vocab.txt").write_text("\n".join(WORD_PIECES))
    with pytest.raises(UserError, match="tokenizer of 400 pieces"):
        load_clip(tmp_path / "x.npz")
