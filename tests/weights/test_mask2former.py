"""Mask2Former folders against transformers, on random models of both backbones."""

import dataclasses
import functools
import json
from typing import Any

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.generator import Generator
from openseg_jax.weights.mask2former import load_mask2former
from tests.weights.torch_side import libraries

SIZES = {
    "hidden_dim": 32, "mask_feature_size": 32, "feature_size": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 48,
    "encoder_feedforward_dim": 40, "num_queries": 6, "num_labels": 3,
}  # fmt: skip


def backbone(kind):
    _, transformers = libraries()
    stages = [f"stage{i}" for i in range(1, 5)]
    if kind == "swin":
        # A window that divides no map, and blocks with and without a shift.
        return transformers.SwinConfig(
            embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=3,
            out_features=stages,
        )  # fmt: skip
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1], out_features=stages
    )


@functools.cache
def saved(kind, folder):
    """Saves a random model; returns its mask logits of an image."""
    torch, transformers = libraries()
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(backbone_config=backbone(kind), **SIZES)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point():
                continue
            x.normal_(0, 0.3 if x.ndim < 2 else float(np.prod(x.shape[1:])) ** -0.5)
            if "var" in name:
                x.abs_().add_(0.5)
            elif "norm" in name and name.endswith("weight"):
                x.add_(1)
    model.save_pretrained(folder)
    about = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    x = (image / 255 - about["image_mean"]) / about["image_std"]
    with torch.no_grad():
        pixels = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
        out = model(pixel_values=pixels, output_auxiliary_logits=True)
    aux = [a["masks_queries_logits"].numpy() for a in out.auxiliary_logits]
    masks = [*aux, out.masks_queries_logits.numpy()]
    return image, masks, out.class_queries_logits.numpy()


@pytest.fixture(scope="module", params=["swin", pytest.param("resnet", marks=pytest.mark.slow)])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, saved(request.param, folder)


def test_masks_are_those_of_transformers(case):
    _, folder, (image, masks, classes) = case
    config, params, report = load_mask2former(folder)
    run: Any = jax.jit(Generator(config).apply)
    out = run({"params": params}, image)
    assert len(masks) == len(out["masks"])
    for got, want in zip(out["masks"], masks, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4 * float(np.std(want)))
    np.testing.assert_allclose(out["class_embed"][-1], classes, atol=1e-4 * classes.std())
    assert not report.missing and not report.unexpected


@pytest.mark.slow
def test_a_wrong_variant_differs(case):
    kind, folder, (image, masks, _) = case
    config, params, _ = load_mask2former(folder)
    change = {"eps": 1e-2} if kind == "resnet" else {"act": "quick_gelu"}
    wrong = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **change))
    run: Any = jax.jit(Generator(wrong).apply)
    out = run({"params": params}, image)["masks"][0]
    assert np.abs(out - masks[0]).max() > 2e-3 * np.std(masks[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_norm": True}, "pre_norm: expected False, got True"),
        ({"model_type": "maskformer"}, "model_type: expected 'mask2former'"),
        ({"hidden_dim": None}, "feature_size"),
        ({"backbone_config": {"model_type": "swim"}}, "did you mean 'swin'"),
        ({"backbone_config": None}, "backbone_config"),
    ],
)
def test_other_models_are_refused(case, tmp_path, change, message):
    _, folder, _ = case
    about = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(UserError, match=message):
        load_mask2former(tmp_path)


def test_a_folder_without_weights_is_named(case, tmp_path):
    _, folder, _ = case
    with pytest.raises(UserError, match="found none; download the whole model"):
        load_mask2former(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_mask2former(tmp_path)
