"""Hugging Face Mask2Former folders, as class-agnostic mask proposers.

The classes of such a model are a closed vocabulary and are not used; its masks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.generator import GeneratorConfig, generator_spec
from openseg_jax.models.layers import ACTIVATION
from openseg_jax.models.mask_decoder import MaskDecoderConfig
from openseg_jax.models.pixel_decoder import PixelDecoderConfig
from openseg_jax.models.resnet import ResNetConfig
from openseg_jax.models.swin import SwinConfig
from openseg_jax.types import Params
from openseg_jax.weights.folder import CONFIG_FILE, read_json
from openseg_jax.weights.generator import FROZEN, conv_norm
from openseg_jax.weights.report import Report
from openseg_jax.weights.tensors import open_weights
from openseg_jax.weights.tree import Leaf, convert, flatten, linear, norm, packed

STEMS = ("model", "pytorch_model")
PREPROCESSOR = "preprocessor_config.json"
_PIXEL, _QUERY = "model.pixel_level_module.", "model.transformer_module."
# Loss weights, counters, an index that follows from the window, and a norm that nothing reads.
ALLOW = (
    r"criterion\..*", r".*\.num_batches_tracked", r".*\.relative_position_index",
    r".*\.encoder\.(swin\.)?layernorm\..*", r".*\.encoder\.pooler\..*",
)  # fmt: skip


def _conv(target: str, source: str, *, bias: bool = False) -> list[Leaf]:
    rows = [Leaf(f"{target}/kernel", f"{source}.weight", "conv")]
    return rows + [Leaf(f"{target}/bias", f"{source}.bias")] if bias else rows


def _swin_leaves(c: SwinConfig) -> list[Leaf]:
    there, here = f"{_PIXEL}encoder.", "backbone/"
    rows = _conv(f"{here}patch", f"{there}embeddings.patch_embeddings.projection", bias=True)
    rows += norm(f"{here}patch_norm", f"{there}embeddings.norm")
    for stage, depth in enumerate(c.depths):
        layer = f"{there}encoder.layers.{stage}"
        for i in range(depth):
            ours, theirs = f"{here}stage{stage + 1}_{i}", f"{layer}.blocks.{i}"
            for name in ("query", "key", "value"):
                rows += linear(f"{ours}/attn/{name}", f"{theirs}.attention.self.{name}")
            table = f"{theirs}.attention.self.relative_position_bias_table"
            rows.append(Leaf(f"{ours}/attn/bias_table", table))
            rows += linear(f"{ours}/attn/out", f"{theirs}.attention.output.dense")
            rows += linear(f"{ours}/fc1", f"{theirs}.intermediate.dense")
            rows += linear(f"{ours}/fc2", f"{theirs}.output.dense")
            for name in ("layernorm_before", "layernorm_after"):
                rows += norm(f"{ours}/{name}", f"{theirs}.{name}")
        rows += norm(f"{here}norm{stage + 1}", f"{there}hidden_states_norms.stage{stage + 1}")
        if stage + 1 < len(c.depths):
            merge = f"{here}merge{stage + 1}"
            rows += linear(merge, f"{layer}.downsample.reduction", bias=False)
            rows += norm(f"{merge}_norm", f"{layer}.downsample.norm")
    return rows


def _resnet_leaves(c: ResNetConfig) -> list[Leaf]:
    there = f"{_PIXEL}encoder."
    found = [("stem_conv1", f"{there}embedder.embedder")]
    for stage, depth in enumerate(c.depths):
        for i in range(depth):
            ours, theirs = f"res{stage + 2}_{i}", f"{there}encoder.stages.{stage}.layers.{i}"
            found += [(f"{ours}/conv{k + 1}", f"{theirs}.layer.{k}") for k in range(3)]
            found += [(f"{ours}/shortcut", f"{theirs}.shortcut")] if i == 0 else []
    rows = []
    for ours, theirs in found:
        rows += _conv(f"backbone/{ours}/conv", f"{theirs}.convolution")
        for leaf, name in FROZEN.items():
            rows.append(Leaf(f"backbone/{ours}/norm/{leaf}", f"{theirs}.normalization.{name}"))
    return rows


def _pixel_leaves(c: PixelDecoderConfig) -> list[Leaf]:
    there, here = f"{_PIXEL}decoder.", "pixel_decoder/"
    rows = [Leaf(f"{here}level_embed", f"{there}level_embed")]
    for i in range(c.levels):
        projection = f"{there}input_projections.{i}"
        rows += conv_norm(f"{here}input_proj_{i}", f"{projection}.0", f"{projection}.1", bias=True)
    for i in range(c.layers):
        ours, theirs = f"{here}layers_{i}", f"{there}encoder.layers.{i}"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            rows += linear(f"{ours}/self_attn/{name}", f"{theirs}.self_attn.{name}")
        rows += linear(f"{ours}/linear1", f"{theirs}.fc1")
        rows += linear(f"{ours}/linear2", f"{theirs}.fc2")
        rows += norm(f"{ours}/norm1", f"{theirs}.self_attn_layer_norm")
        rows += norm(f"{ours}/norm2", f"{theirs}.final_layer_norm")
    for name in ("adapter_1", "layer_1"):
        rows += conv_norm(f"{here}{name}", f"{there}{name}.0", f"{there}{name}.1", bias=False)
    return rows + _conv(f"{here}mask_features", f"{there}mask_projection", bias=True)


def _decoder_leaves(c: MaskDecoderConfig) -> list[Leaf]:
    there, here = f"{_QUERY}decoder.", "decoder/"
    rows = [
        Leaf(f"{here}query_feat", f"{_QUERY}queries_features.weight"),
        Leaf(f"{here}query_embed", f"{_QUERY}queries_embedder.weight"),
        Leaf(f"{here}level_embed", f"{_QUERY}level_embed.weight"),
        *norm(f"{here}decoder_norm", f"{there}layernorm"),
        *linear(f"{here}class_embed/layers_0", "class_predictor"),
    ]
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    for i in range(c.layers):
        ours, theirs = f"{here}layers_{i}", f"{there}layers.{i}"
        cross = f"{theirs}.cross_attn"
        rows += packed(
            f"{ours}/cross_attn", f"{cross}.in_proj_weight", f"{cross}.in_proj_bias",
            ("query", "key", "value"),
        )  # fmt: skip
        rows += linear(f"{ours}/cross_attn/out", f"{cross}.out_proj")
        for name, their in names.items():
            rows += linear(f"{ours}/self_attn/{name}", f"{theirs}.self_attn.{their}")
        rows += linear(f"{ours}/ffn/layers_0", f"{theirs}.fc1")
        rows += linear(f"{ours}/ffn/layers_1", f"{theirs}.fc2")
        rows += norm(f"{ours}/cross_norm", f"{theirs}.cross_attn_layer_norm")
        rows += norm(f"{ours}/self_norm", f"{theirs}.self_attn_layer_norm")
        rows += norm(f"{ours}/ffn_norm", f"{theirs}.final_layer_norm")
    for i in range(3):
        head = f"{there}mask_predictor.mask_embedder.{i}.0"
        rows += linear(f"{here}mask_embed/layers_{i}", head)
    return rows


def _backbone(about: Mapping[str, Any], file: str) -> SwinConfig | ResNetConfig:
    kind = about.get("model_type")
    if kind == "swin":
        _must(about, file, use_absolute_embeddings=False, qkv_bias=True)
        act = about.get("hidden_act", "gelu")
        if act not in ACTIVATION:
            unknown_name(str(act), ACTIVATION, f"{file}: hidden_act")
        return SwinConfig(
            about["embed_dim"], tuple(about["depths"]), tuple(about["num_heads"]),
            about["window_size"], about.get("patch_size", 4), about.get("mlp_ratio", 4.0), act,
            about.get("layer_norm_eps", 1e-5),
        )  # fmt: skip
    if kind == "resnet":
        _must(
            about, file, layer_type="bottleneck", downsample_in_first_stage=False,
            hidden_act="relu",
        )  # fmt: skip
        depths = tuple(about["depths"])
        return ResNetConfig(
            depths, tuple(about["hidden_sizes"]), "basic", about["embedding_size"],
            (1,) * depths[-1], not about.get("downsample_in_bottleneck", False),
        )  # fmt: skip
    unknown_name(str(kind), ("swin", "resnet"), f"{file}: backbone_config.model_type")


def _must(about: Mapping[str, Any], file: str, **values: Any) -> None:
    for name, value in values.items():
        if about.get(name, value) != value:
            raise expected(
                f"{file}: {name}", repr(value), repr(about[name]),
                "only the released Mask2Formers' kind is supported",
            )  # fmt: skip


def config_of(about: Mapping[str, Any], file: str = CONFIG_FILE) -> GeneratorConfig:
    """Reads the architecture off a Mask2Former's config.json.

    Raises:
        UserError: for another model, or a setting that changes the architecture beyond what is
            supported; it names file, key, what was expected and what was found.
    """
    _must(about, file, model_type="mask2former")
    if "model_type" not in about or not isinstance(about.get("backbone_config"), Mapping):
        raise UserError(
            f"{file}: expected a Mask2Former's configuration with its backbone_config; give a "
            "folder saved by transformers"
        )
    _must(
        about, file, pre_norm=False, enforce_input_projection=False, activation_function="relu",
        common_stride=4, feature_strides=[4, 8, 16, 32],
    )  # fmt: skip
    try:
        width, labels = about["hidden_dim"], about.get("id2label") or {"0": "", "1": ""}
        _must(about, file, feature_size=width)
        return GeneratorConfig(
            backbone=_backbone(about["backbone_config"], file),
            pixel_decoder=PixelDecoderConfig(
                width=width, mask_width=about["mask_feature_size"],
                layers=about["encoder_layers"], heads=about["num_attention_heads"],
                ffn=about["encoder_feedforward_dim"], dropout=about.get("dropout", 0.0),
            ),
            interaction=None,
            decoder=MaskDecoderConfig(
                width=width, mask_width=about["mask_feature_size"],
                queries=about["num_queries"],
                # Theirs counts the prediction of the bare queries as a layer.
                layers=about["decoder_layers"] - 1,
                heads=about["num_attention_heads"], ffn=about["dim_feedforward"],
                class_dim=len(labels) + 1, class_hidden=None,
            ),
        )  # fmt: skip
    except KeyError as error:
        raise UserError(
            f"{file}: expected the key {error}, found none; download the file again"
        ) from error


def _pixels(folder: Path, config: GeneratorConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std in [0, 255]; a folder without a preprocessor has ImageNet's."""
    file = folder / PREPROCESSOR
    about = read_json(file) if file.is_file() else {}
    found = []
    for name, own in (("image_mean", config.mean), ("image_std", config.std)):
        value = about.get(name)
        found.append(own if value is None else tuple(255 * float(x) for x in value))
    return found[0], found[1]


def load_mask2former(folder: Path) -> tuple[GeneratorConfig, Params, Report]:
    """Loads a Mask2Former with a Swin or ResNet backbone.

    Args:
        folder: with config.json, the weights, and preferably preprocessor_config.json.

    Returns:
        A generator's configuration (without text interaction) and parameters, and the report.

    Raises:
        UserError: for a folder that is missing, holds another model, or whose weights do not fit.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: expected a Mask2Former's folder with {CONFIG_FILE}, found none; "
            "download the whole model"
        )
    config = config_of(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    mean, std = _pixels(folder, config)
    config = GeneratorConfig(config.backbone, config.pixel_decoder, None, config.decoder, mean, std)
    file, state = open_weights(folder, STEMS)
    backbone: Any = config.backbone
    swin = isinstance(backbone, SwinConfig)
    rows = [
        *(_swin_leaves(backbone) if swin else _resnet_leaves(backbone)),
        *_pixel_leaves(config.pixel_decoder),
        *_decoder_leaves(config.decoder),
    ]
    spec = flatten(generator_spec(config))
    params, report = convert(state, rows, spec, file=str(file), allow=ALLOW)
    return config, params, report
