"""Hugging Face `transformers` folders: CLIPModel and SiglipModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.types import Params
from openseg_jax.weights.folder import read_json
from openseg_jax.weights.loaded import LoadedClip, unknown_provenance
from openseg_jax.weights.tensors import open_weights
from openseg_jax.weights.tree import Leaf, convert, export, linear, norm, packed, scalar
from openseg_jax.weights.vocabulary import clip_vocabulary, siglip_vocabulary

STEMS = ("model", "pytorch_model")
ALLOW = (r".*\.embeddings\.position_ids",)
_ACT = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# What transformers assumes for a key that config.json leaves out (it writes only differences
# from these in some versions).
_SHARED = {"num_hidden_layers": 12, "num_channels": 3, "image_size": 224}
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text": {
            "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048,
            "num_attention_heads": 8, "max_position_embeddings": 77,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
        "vision": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
            "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
    },
    "siglip": {
        "text": {
            "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072,
            "num_attention_heads": 12, "max_position_embeddings": 64,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
        "vision": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
            "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
    },
}  # fmt: skip


def block_leaves(target: str, source: str) -> list[Leaf]:
    """Names a stack of encoder layers."""
    rows = []
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        rows += linear(f"{target}/attn/{ours}", f"{source}.self_attn.{theirs}_proj")
    return [
        *rows,
        *norm(f"{target}/ln_1", f"{source}.layer_norm1"),
        *norm(f"{target}/ln_2", f"{source}.layer_norm2"),
        *linear(f"{target}/mlp/c_fc", f"{source}.mlp.fc1"),
        *linear(f"{target}/mlp/c_proj", f"{source}.mlp.fc2"),
    ]


def leaves(config: CLIPConfig, source: Mapping[str, Any] | None = None) -> list[Leaf]:
    """Names all parameters as transformers does for this configuration.

    Args:
        config: a CLIP (class-token pooling) or a SigLIP (attention-head pooling).
        source: the arrays, whose scalars may have shape () or (1,).
    """
    source = {} if source is None else source
    vision, text = "vision_model", "text_model"
    rows = [
        Leaf("visual/conv1/kernel", f"{vision}.embeddings.patch_embedding.weight", "conv"),
        Leaf("visual/positional_embedding", f"{vision}.embeddings.position_embedding.weight"),
        *block_leaves("visual/blocks", f"{vision}.encoder.layers.{{i}}"),
        *norm("visual/ln_post", f"{vision}.post_layernorm"),
        Leaf("text/token_embedding", f"{text}.embeddings.token_embedding.weight"),
        Leaf("text/positional_embedding", f"{text}.embeddings.position_embedding.weight"),
        *block_leaves("text/blocks", f"{text}.encoder.layers.{{i}}"),
        *norm("text/ln_final", f"{text}.final_layer_norm"),
        scalar(source, "logit_scale", "logit_scale"),
    ]
    if config.vision.pool == "map":
        head = f"{vision}.head"
        return [
            *rows,
            Leaf("visual/conv1/bias", f"{vision}.embeddings.patch_embedding.bias"),
            Leaf("visual/map_head/probe", f"{head}.probe", shape=(1, 1, config.vision.width)),
            *packed(
                "visual/map_head/attn",
                f"{head}.attention.in_proj_weight",
                f"{head}.attention.in_proj_bias",
                ("query", "key", "value"),
            ),
            *linear("visual/map_head/attn/out", f"{head}.attention.out_proj"),
            *norm("visual/map_head/ln", f"{head}.layernorm"),
            *linear("visual/map_head/mlp/c_fc", f"{head}.mlp.fc1"),
            *linear("visual/map_head/mlp/c_proj", f"{head}.mlp.fc2"),
            *linear("text/text_projection", f"{text}.head"),
            scalar(source, "logit_bias", "logit_bias"),
        ]
    return [
        *rows,
        Leaf("visual/class_embedding", f"{vision}.embeddings.class_embedding"),
        *norm("visual/ln_pre", f"{vision}.pre_layrnorm"),
        *linear("visual/proj", "visual_projection", bias=False),
        *linear("text/text_projection", "text_projection", bias=False),
    ]


def config_from_json(about: Mapping[str, Any], *, name: str, file: str) -> CLIPConfig:
    """Reads the architecture from a transformers config.json.

    Position tables are resampled by the rule of the weights' family (open_clip's for CLIP,
    big_vision's for SigLIP), so that equal weights act alike whatever file they come in.

    Raises:
        UserError: for a model type, activation or setting that is not supported.
    """
    kind = about.get("model_type")
    if kind == "sam":
        raise expected(
            f"{file}: model_type", "a CLIP", "Segment Anything, which knows masks and no words",
            "name it with --sam to refine masks, and a CLIP with --model",
        )  # fmt: skip
    if kind not in _DEFAULTS:
        unknown_name(str(kind), _DEFAULTS, f"{file}: model_type")
    siglip = kind == "siglip"

    def section(tower: str) -> dict[str, Any]:
        data = {**_SHARED, **_DEFAULTS[kind][tower], **(about.get(f"{tower}_config") or {})}
        # Old files repeat the section under this name, which then wins, as in transformers.
        data.update(about.get(f"{tower}_config_dict") or {})
        if data["hidden_act"] not in _ACT:
            unknown_name(str(data["hidden_act"]), _ACT, f"{file}: {tower}_config.hidden_act")
        return data

    def tower(data: dict[str, Any]) -> dict[str, Any]:
        return {
            "width": data["hidden_size"],
            "depth": data["num_hidden_layers"],
            "heads": data["num_attention_heads"],
            "mlp_width": data["intermediate_size"],
            "act": _ACT[data["hidden_act"]],
            "eps": data["layer_norm_eps"],
        }

    v, t = section("vision"), section("text")
    if v["num_channels"] != 3 or v.get("vision_use_head", True) is not True:
        raise expected(file, "RGB images and a pooling head", "another model", "use a CLIP")
    own: dict[str, Any] = {}
    if siglip:
        own = {"pool": "map", "pre_norm": False, "conv_bias": True, "proj": False}
        own["pos_resample"] = "zoom_linear"
    embed = t.get("projection_size", t["hidden_size"]) if siglip else about.get("projection_dim")
    return CLIPConfig(
        name=name,
        embed_dim=embed or 512,
        vision=VisionConfig(v["image_size"], v["patch_size"], **tower(v), **own),
        text=TextConfig(
            t["max_position_embeddings"],
            t["vocab_size"],
            **tower(t),
            **({"pool": "last", "causal": False, "proj_bias": True} if siglip else {}),
        ),
        logit_bias=siglip,
    )


def preprocess_from_json(about: Mapping[str, Any], *, file: str) -> Preprocess:
    """Reads a transformers preprocessor_config.json.

    Raises:
        UserError: for a resize rule or an interpolation that is not supported.
    """
    size = about.get("size", 224)
    crop = about.get("crop_size", size)
    # Siglip gives height and width and does not crop; CLIP gives the shortest edge and crops.
    squash = isinstance(size, dict) and "height" in size and not about.get("do_center_crop", False)
    final = size if squash else crop
    if isinstance(final, dict):
        sides = {final.get("height", final.get("shortest_edge")), final.get("width")} - {None}
        if len(sides) != 1:
            raise expected(f"{file}: size", "a square", str(final), "use square weights")
        final = sides.pop()
    if not isinstance(final, int):
        raise expected(f"{file}: size", "pixels", str(final), "download the file again")
    methods = {2: "bilinear", 3: "bicubic"}
    if about.get("resample", 3) not in methods:
        raise expected(f"{file}: resample", "2 or 3", str(about.get("resample")), "correct it")
    return Preprocess(
        size=final,
        mean=tuple(about.get("image_mean", Preprocess.mean)),
        std=tuple(about.get("image_std", Preprocess.std)),
        resize="squash" if squash else "short_side_crop",
        interpolation=methods[about.get("resample", 3)],
    )


def load_huggingface(folder: Path) -> LoadedClip:
    """Loads a transformers folder: config, weights, preprocessor and tokenizer.

    Raises:
        UserError: for files that are missing, broken, unsupported or do not fit one another.
    """
    about = read_json(folder / "config.json")
    config = config_from_json(about, name=folder.name, file=str(folder / "config.json"))
    file, source = open_weights(folder, STEMS)
    params, report = convert(source, leaves(config, source), config, file=str(file), allow=ALLOW)
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; it says how images are prepared: download it too")
    context, vocab_size = config.text.context, config.text.vocab_size
    if config.vision.pool == "map":
        tokenizer = siglip_vocabulary(folder, context=context, vocab_size=vocab_size)
    else:
        tokenizer = clip_vocabulary(folder, context=context, vocab_size=vocab_size, pad_end=True)
    return LoadedClip(
        config=config,
        params=params,
        preprocess=preprocess_from_json(read_json(path), file=str(path)),
        tokenizer=tokenizer,
        provenance=unknown_provenance(folder),
        defaults={},
        report=report,
    )


def to_state_dict(
    params: Params, config: CLIPConfig, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields transformers' names and arrays."""
    one = {"logit_scale": np.zeros(1), "logit_bias": np.zeros(1)} if config.logit_bias else {}
    return export(params, leaves(config, one), dtype)
