"""Hugging Face folders of Segment Anything (`SamModel`): facebook/sam-vit-base, -large, -huge."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.sam import Sam, SamConfig, sam_spec
from openseg_jax.models.sam_decoder import SamDecoderConfig
from openseg_jax.models.sam_encoder import SamEncoderConfig
from openseg_jax.types import Params
from openseg_jax.weights.folder import CONFIG_FILE, read_json
from openseg_jax.weights.huggingface import STEMS
from openseg_jax.weights.loaded import unknown_provenance
from openseg_jax.weights.registry import SAMS, known_sam, resolve
from openseg_jax.weights.report import Report
from openseg_jax.weights.tensors import open_weights
from openseg_jax.weights.tree import Leaf, convert, export, flatten, linear, norm, packed

PREPROCESSOR = "preprocessor_config.json"
# One table under two names: files carry either or both.
_TABLE = "shared_image_embedding.positional_embedding"
_TABLE_TWIN = "prompt_encoder.shared_embedding.positional_embedding"
_ACT = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# What transformers assumes for a key that config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": {
        "hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_channels": 3, "image_size": 1024, "patch_size": 16,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "mlp_ratio": 4.0,
        "use_abs_pos": True, "use_rel_pos": True, "window_size": 14,
        "global_attn_indexes": [2, 5, 8, 11], "num_pos_feats": 128, "mlp_dim": None,
    },
    "prompt_encoder_config": {
        "hidden_size": 256, "image_size": 1024, "patch_size": 16, "mask_input_channels": 16,
        "num_point_embeddings": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    },
    "mask_decoder_config": {
        "hidden_size": 256, "hidden_act": "relu", "mlp_dim": 2048, "num_hidden_layers": 2,
        "num_attention_heads": 8, "attention_downsample_rate": 2, "num_multimask_outputs": 3,
        "iou_head_depth": 3, "iou_head_hidden_dim": 256, "layer_norm_eps": 1e-6,
    },
}  # fmt: skip
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedSam:
    """Weights of a Segment Anything and what goes with them.

    Attributes:
        config: the architecture, with mean and std of the pixels.
        params: nested float32 numpy arrays.
        provenance: name, source, licence, and what the weights saw in training.
        report: what happened to each name on the way in.
    """

    config: SamConfig
    params: Params
    provenance: dict[str, str]
    report: Report

    def model(self, dtype: Any = jnp.float32) -> Sam:
        """Builds the module that `params` belong to."""
        return Sam(self.config, dtype)


def _attention(target: str, source: str) -> list[Leaf]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return [
        leaf
        for ours, theirs in names.items()
        for leaf in linear(f"{target}/{ours}", f"{source}.{theirs}")
    ]


def _conv(target: str, source: str, *, bias: bool = True) -> list[Leaf]:
    rows = [Leaf(f"{target}/kernel", f"{source}.weight", "conv")]
    return rows + [Leaf(f"{target}/bias", f"{source}.bias")] if bias else rows


def _encoder_leaves(c: SamEncoderConfig) -> list[Leaf]:
    there = "vision_encoder"
    here, layer = "encoder/blocks", f"{there}.layers.{{i}}"
    rows = [
        *_conv("encoder/patch", f"{there}.patch_embed.projection"),
        *norm(f"{here}/ln_1", f"{layer}.layer_norm1"),
        *packed(
            f"{here}/attn", f"{layer}.attn.qkv.weight", f"{layer}.attn.qkv.bias",
            ("query", "key", "value"),
        ),
        *linear(f"{here}/attn/out", f"{layer}.attn.proj"),
        *norm(f"{here}/ln_2", f"{layer}.layer_norm2"),
        *linear(f"{here}/mlp/c_fc", f"{layer}.mlp.lin1"),
        *linear(f"{here}/mlp/c_proj", f"{layer}.mlp.lin2"),
    ]  # fmt: skip
    for i in (1, 2):
        rows += _conv(f"encoder/neck_{i}", f"{there}.neck.conv{i}", bias=False)
        rows += norm(f"encoder/neck_norm_{i}", f"{there}.neck.layer_norm{i}")
    if c.absolute:
        shape = (1, c.grid, c.grid, c.width)
        rows.append(Leaf("encoder/positions", f"{there}.pos_embed", shape=shape))
    if c.relative:
        for i in range(c.depth):
            for ours, theirs in (("rows", "h"), ("columns", "w")):
                name = f"{there}.layers.{i}.attn.rel_pos_{theirs}"
                rows.append(Leaf(f"encoder/{ours}_{i}", name))
    return rows


def _prompt_leaves(c: SamDecoderConfig, table: str) -> list[Leaf]:
    there, row = "prompt_encoder", (1, c.width)
    rows = [
        Leaf("prompts/frequencies", table),
        Leaf("prompts/kinds", f"{there}.point_embed.{{i}}.weight", shape=row),
        Leaf("prompts/no_point", f"{there}.not_a_point_embed.weight", shape=row),
        Leaf("prompts/no_mask", f"{there}.no_mask_embed.weight", shape=row),
    ]
    for i in (1, 2, 3):
        rows += _conv(f"prompts/mask_{i}", f"{there}.mask_embed.conv{i}")
    for i in (1, 2):
        rows += norm(f"prompts/mask_norm_{i}", f"{there}.mask_embed.layer_norm{i}")
    return rows


def _head(target: str, source: str, depth: int) -> list[Leaf]:
    names = ["proj_in", *(f"layers.{i}" for i in range(depth - 2)), "proj_out"]
    return [
        leaf
        for i, name in enumerate(names)
        for leaf in linear(f"{target}/layers_{i}", f"{source}.{name}")
    ]


def _decoder_leaves(c: SamDecoderConfig) -> list[Leaf]:
    there = "mask_decoder"
    rows = [
        Leaf("decoder/iou_token", f"{there}.iou_token.weight"),
        Leaf("decoder/mask_tokens", f"{there}.mask_tokens.weight"),
        *_attention("decoder/final_attn", f"{there}.transformer.final_attn_token_to_image"),
        *norm("decoder/final_norm", f"{there}.transformer.layer_norm_final_attn"),
        *norm("decoder/enlarge_norm", f"{there}.upscale_layer_norm"),
        *_head("decoder/iou_head", f"{there}.iou_prediction_head", c.iou_layers),
    ]
    for i in range(c.layers):
        here, layer = f"decoder/layers_{i}", f"{there}.transformer.layers.{i}"
        rows += _attention(f"{here}/self_attn", f"{layer}.self_attn")
        rows += _attention(f"{here}/token_to_image", f"{layer}.cross_attn_token_to_image")
        rows += _attention(f"{here}/image_to_token", f"{layer}.cross_attn_image_to_token")
        for k in (0, 1):
            rows += linear(f"{here}/mlp/layers_{k}", f"{layer}.mlp.lin{k + 1}")
        for k in range(1, 5):
            rows += norm(f"{here}/norm_{k}", f"{layer}.layer_norm{k}")
    for k in (1, 2):
        name = f"{there}.upscale_conv{k}"
        rows.append(Leaf(f"decoder/enlarge_{k}/kernel", f"{name}.weight", "conv_transpose"))
        rows.append(Leaf(f"decoder/enlarge_{k}/bias", f"{name}.bias"))
    for i in range(c.masks + 1):
        rows += _head(f"decoder/hyper_{i}", f"{there}.output_hypernetworks_mlps.{i}", 3)
    return rows


def leaves(config: SamConfig, table: str = _TABLE) -> list[Leaf]:
    """Names all parameters as transformers does.

    Args:
        config: of the model.
        table: their name of the frequencies, of which there are two.
    """
    return [
        *_encoder_leaves(config.encoder),
        *_prompt_leaves(config.decoder, table),
        *_decoder_leaves(config.decoder),
    ]


def config_from_json(about: Mapping[str, Any], *, name: str, file: str) -> SamConfig:
    """Reads the architecture off a transformers config.json; mean and std are ImageNet's.

    Raises:
        UserError: for another model, or a setting that is not supported; it names file and key.
    """
    if about.get("model_type") != "sam":
        raise expected(
            f"{file}: model_type", "'sam'", repr(about.get("model_type")),
            "give a Segment Anything saved by transformers",
        )  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for key, defaults in _DEFAULTS.items():
        section = about.get(key) or {}
        if not isinstance(section, Mapping):
            raise expected(f"{file}: {key}", "an object", repr(section)[:60], "restore it")
        found[key] = {**defaults, **section}
    v, p, d = (found[key] for key in _DEFAULTS)
    width = v["output_channels"]
    must = [
        ("vision_config.num_channels", v["num_channels"], 3),
        ("vision_config.qkv_bias", v["qkv_bias"], True),
        ("vision_config.num_pos_feats", v["num_pos_feats"], width // 2),
        ("prompt_encoder_config.hidden_size", p["hidden_size"], width),
        ("prompt_encoder_config.num_point_embeddings", p["num_point_embeddings"], 4),
        ("prompt_encoder_config.image_size", p["image_size"], v["image_size"]),
        ("prompt_encoder_config.patch_size", p["patch_size"], v["patch_size"]),
        ("mask_decoder_config.hidden_size", d["hidden_size"], width),
        ("mask_decoder_config.hidden_act", d["hidden_act"], "relu"),
        # transformers gives its blocks 2 whatever the file says, and the last attention this.
        ("mask_decoder_config.attention_downsample_rate", d["attention_downsample_rate"], 2),
    ]
    for key, value, want in must:
        if value != want:
            raise expected(
                f"{file}: {key}", repr(want), repr(value),
                "only the released Segment Anything's kind is supported",
            )  # fmt: skip
    for key in ("vision_config", "prompt_encoder_config"):
        if found[key]["hidden_act"] not in _ACT:
            unknown_name(str(found[key]["hidden_act"]), _ACT, f"{file}: {key}.hidden_act")
    _check_sizes(v, d, file)
    return SamConfig(
        name=name,
        encoder=SamEncoderConfig(
            image_size=v["image_size"], patch_size=v["patch_size"], width=v["hidden_size"],
            depth=v["num_hidden_layers"], heads=v["num_attention_heads"],
            mlp_width=v["mlp_dim"] or int(v["hidden_size"] * v["mlp_ratio"]),
            act=_ACT[v["hidden_act"]], eps=v["layer_norm_eps"], window=v["window_size"],
            global_blocks=tuple(v["global_attn_indexes"]), absolute=v["use_abs_pos"],
            relative=v["use_rel_pos"], out_width=width,
        ),
        decoder=SamDecoderConfig(
            width=width, layers=d["num_hidden_layers"], heads=d["num_attention_heads"],
            mlp_width=d["mlp_dim"], eps=d["layer_norm_eps"],
            downsample=d["attention_downsample_rate"], masks=d["num_multimask_outputs"],
            iou_layers=d["iou_head_depth"], iou_width=d["iou_head_hidden_dim"],
            mask_channels=p["mask_input_channels"], prompt_act=_ACT[p["hidden_act"]],
            prompt_eps=p["layer_norm_eps"],
        ),
        mean=tuple(255 * x for x in _IMAGENET[0]),
        std=tuple(255 * x for x in _IMAGENET[1]),
    )  # fmt: skip


def _check_sizes(v: Mapping[str, Any], d: Mapping[str, Any], file: str) -> None:
    """Raises for sizes that no model can have: they come from a file and are used in divisions."""
    sizes = {
        "vision_config": ("hidden_size", "output_channels", "num_hidden_layers", "image_size",
                          "num_attention_heads", "patch_size", "window_size"),
        "mask_decoder_config": ("num_hidden_layers", "num_attention_heads", "mlp_dim",
                                "num_multimask_outputs"),
    }  # fmt: skip
    for key, section in (("vision_config", v), ("mask_decoder_config", d)):
        for name in sizes[key]:
            value = section[name]
            if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
                raise expected(
                    f"{file}: {key}.{name}", "a whole number of 1 or more", repr(value),
                    "download the file again",
                )  # fmt: skip
    inner = v["output_channels"] // d["attention_downsample_rate"]
    for name, total, parts in (
        ("vision_config.num_attention_heads", v["hidden_size"], v["num_attention_heads"]),
        ("vision_config.patch_size", v["image_size"], v["patch_size"]),
        ("mask_decoder_config.num_attention_heads", inner, d["num_attention_heads"]),
    ):
        if total % parts:
            raise expected(f"{file}: {name}", f"a divisor of {total}", str(parts), "correct it")


def _pixels(config: SamConfig, folder: Path) -> SamConfig:
    """Takes mean and std from the folder's preprocessor, and checks its rule of resizing."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        raise UserError(f"{file}: missing; it says how images are prepared: download it too")
    about, side = read_json(file), config.image_size
    must = [
        ("size", about.get("size", {"longest_edge": side}), {"longest_edge": side}),
        ("pad_size", about.get("pad_size", {"height": side, "width": side}),
         {"height": side, "width": side}),
        ("resample", about.get("resample", 2), 2),
    ]  # fmt: skip
    for key, value, want in must:
        if value != want:
            raise expected(f"{file}: {key}", str(want), str(value), "only this is supported")
    values = []
    for key, own in zip(("image_mean", "image_std"), _IMAGENET, strict=True):
        value = about.get(key) or own
        if len(value) != 3:
            raise expected(f"{file}: {key}", "three numbers", str(value), "correct it")
        values.append(tuple(255 * float(x) for x in value))
    return dataclasses.replace(config, mean=values[0], std=values[1])


def load_sam_folder(folder: Path) -> LoadedSam:
    """Loads a transformers folder: config.json, preprocessor_config.json and the weights.

    Raises:
        UserError: for files that are missing, broken, of another model or do not fit together.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: expected a Segment Anything's folder with {CONFIG_FILE}, found none; "
            f"download the whole model, or name one of {', '.join(SAMS)}"
        )
    file = str(folder / CONFIG_FILE)
    config = config_from_json(read_json(folder / CONFIG_FILE), name=folder.name, file=file)
    config = _pixels(config, folder)
    path, source = open_weights(folder, STEMS)
    table = _TABLE if _TABLE in source or _TABLE_TWIN not in source else _TABLE_TWIN
    twins = [np.asarray(source[name]) for name in (_TABLE, _TABLE_TWIN) if name in source]
    if len(twins) == 2 and not np.array_equal(twins[0], twins[1]):
        raise UserError(
            f"{path}: {_TABLE} and {_TABLE_TWIN} are one table and differ; download the file again"
        )
    params, report = convert(
        source, leaves(config, table), flatten(sam_spec(config)), file=str(path),
        allow=[name.replace(".", r"\.") for name in (_TABLE, _TABLE_TWIN)],
    )  # fmt: skip
    return LoadedSam(config, params, unknown_provenance(folder), report)


def load_sam(name_or_path: str | os.PathLike[str] | LoadedSam) -> LoadedSam:
    """Loads a Segment Anything by name or from a folder; what is loaded is returned as it is.

    Args:
        name_or_path: "SAM-B", "SAM-L" or "SAM-H", which come from the Hugging Face cache or from
            the hub where there is a network; or a folder that transformers saved.

    Raises:
        UserError: for an unknown name (with the closest one), or see `load_sam_folder`.
    """
    if isinstance(name_or_path, LoadedSam):
        return name_or_path
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_dir():
        return load_sam_folder(path)
    if path.is_absolute() or path.exists() or name.startswith(".") or os.sep in name:
        found = "a file" if path.exists() else "nothing there"
        raise expected(
            "sam", f"one of {', '.join(SAMS)} or a folder", f"{path} ({found})",
            "give the folder that holds config.json and the weights",
        )  # fmt: skip
    entry = known_sam(name)
    loaded = load_sam_folder(resolve(entry))
    config = dataclasses.replace(loaded.config, name=entry.name)
    return dataclasses.replace(loaded, config=config, provenance=entry.provenance())


def to_state_dict(params: Params, config: SamConfig) -> dict[str, np.ndarray]:
    """Names our parameters as transformers does, under both names of the shared table."""
    state = dict(export(params, leaves(config)))
    return {**state, _TABLE_TWIN: state[_TABLE]}
