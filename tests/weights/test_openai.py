import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.weights import openai
from openseg_jax.weights.tree import flatten, param_spec, unflatten
from tests.weights.tiny import CLIP_MU, random_params, same

HEADS = {"vision_heads": 2, "text_heads": 2}


def state() -> dict:
    return dict(openai.to_state_dict(random_params(CLIP_MU)))


def test_flatten_and_unflatten_are_inverse():
    params = random_params(CLIP_MU)
    assert same(params, unflatten(flatten(params)))
    assert set(flatten(params)) == set(param_spec(CLIP_MU))


def test_round_trip_gives_equal_numbers_and_the_architecture():
    params = random_params(CLIP_MU)
    config, back, report = openai.from_state_dict(
        dict(openai.to_state_dict(params)), name="mu", **HEADS
    )
    assert config == CLIP_MU
    assert same(params, back)
    assert report.parameters == sum(x.size for x in flatten(params).values())
    assert not report.cast


def test_layouts_follow_torch():
    params, flat = random_params(CLIP_MU), state()
    packed = flat["visual.transformer.resblocks.1.attn.in_proj_weight"]
    key = params["visual"]["blocks"]["attn"]["key"]["kernel"][1]
    np.testing.assert_array_equal(packed[32:64], key.T)
    conv = flat["visual.conv1.weight"]
    assert conv.shape == (32, 3, 8, 8)
    assert conv[5, 2, 3, 4] == params["visual"]["conv1"]["kernel"][3, 4, 2, 5]
    assert flat["visual.proj"].shape == (32, 16)


def test_half_precision_is_cast_and_reported():
    half = {k: v.astype(np.float16) for k, v in state().items()}
    _, params, report = openai.from_state_dict(half, **HEADS)
    assert all(x.dtype == np.float32 for x in flatten(params).values())
    assert len(report.cast) == len(report.loaded)
    assert "float16 to float32" in report.text()


def test_buffers_of_the_archive_are_ignored_but_reported():
    extra = {**state(), "input_resolution": np.array(32), "attn_mask": np.zeros((16, 16))}
    _, _, report = openai.from_state_dict(extra, **HEADS)
    assert len(report.ignored) == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), ["1 missing", "visual.ln_post.bias [32]"]),
        (lambda s: s.update(head=np.ones(3)), ["1 unexpected", "head float64[3]"]),
        (
            lambda s: s.update({"ln_final.bias": np.ones(7, np.float32)}),
            ["1 with a wrong shape", "ln_final.bias: expected [24], found float32[7]"],
        ),
        (
            lambda s: s.pop("visual.transformer.resblocks.1.attn.in_proj_bias"),
            ["1 missing", "resblocks.1.attn.in_proj_bias [96]"],
        ),
        (lambda s: s.pop("visual.proj"), ["visual.proj", "not a CLIP"]),
        (
            lambda s: s.update({"visual.conv1.weight": np.ones(3)}),
            ["visual.conv1.weight: expected 4 axes, found float64[3]"],
        ),
    ],
)
def test_trouble_names_file_key_expected_and_found(spoil, words):
    spoilt = state()
    spoil(spoilt)
    with pytest.raises(UserError) as error:
        openai.from_state_dict(spoilt, file="some/file.pt", **HEADS)
    for word in ["some/file.pt", *words]:
        assert word in str(error.value)


def test_many_troubles_show_a_few_and_count_all():
    spoilt = {k: v for k, v in state().items() if "mlp" not in k or "resblocks.0" in k}
    with pytest.raises(UserError, match=r"8 missing: .* and 5 more"):
        openai.from_state_dict(spoilt, **HEADS)


def test_resnet_clip_is_named():
    spoilt = {**state(), "visual.layer1.0.conv1.weight": np.ones(1)}
    del spoilt["visual.proj"]
    with pytest.raises(UserError, match="ResNet"):
        openai.from_state_dict(spoilt)
