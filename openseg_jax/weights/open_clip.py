"""open_clip folders: open_clip_config.json with open_clip_model.safetensors or the .bin file.

Plain CLIPs carry OpenAI's names. SigLIPs carry timm's for the image tower and OpenAI's below
"text." for the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.types import Params
from openseg_jax.weights import openai
from openseg_jax.weights.folder import read_json
from openseg_jax.weights.loaded import LoadedClip, unknown_provenance
from openseg_jax.weights.tensors import open_weights
from openseg_jax.weights.tree import Leaf, convert, export, linear, norm, packed, scalar
from openseg_jax.weights.vocabulary import clip_vocabulary, siglip_vocabulary

CONFIG_FILE = "open_clip_config.json"
STEMS = ("open_clip_model", "open_clip_pytorch_model")
# timm's names for the sizes of its SigLIP towers: width, depth, heads, MLP width.
_TIMM = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_VISION_KEYS = {
    "image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "act_kwargs",
    "norm_kwargs", "patch_dropout", "timm_drop", "timm_drop_path", "timm_model_name",
    "timm_model_pretrained", "timm_pool", "timm_proj",
}  # fmt: skip
_TEXT_KEYS = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask",
    "pool_type", "proj_bias", "act_kwargs", "norm_kwargs", "hf_tokenizer_name",
    "tokenizer_kwargs",
}  # fmt: skip
_TOP_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "init_logit_bias"}
_OFF = (None, False, 0, 0.0)


def _only(data: Mapping[str, Any], known: set[str], where: str) -> None:
    # A key that is off asks for nothing; one that is on and unknown would be ignored silently.
    for key, value in data.items():
        if key not in known and value not in _OFF:
            raise UserError(
                f"{where}: {key} = {value!r} is not supported; "
                "use a plain ViT CLIP or a SigLIP of open_clip"
            )


def _act(data: Mapping[str, Any], quick: bool) -> str:
    if quick:
        return "quick_gelu"
    kind = (data.get("act_kwargs") or {}).get("approximate", "none")
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(kind) or unknown_name(
        str(kind), ("none", "tanh"), "act_kwargs.approximate"
    )


def _eps(data: Mapping[str, Any]) -> float:
    return (data.get("norm_kwargs") or {}).get("eps", 1e-5)


def _timm_tower(vision: Mapping[str, Any], file: str) -> VisionConfig:
    name = str(vision["timm_model_name"])
    match = re.fullmatch(r"vit_(\w+?)_patch(\d+)_siglip_(\d+)", name)
    if match is None or match[1] not in _TIMM:
        raise expected(
            f"{file}: timm_model_name",
            f"vit_{{{'|'.join(_TIMM)}}}_patchN_siglip_N",
            repr(name),
            "only timm's SigLIP towers are supported",
        )
    if vision.get("timm_pool") != "map" or vision.get("timm_proj", "none") not in ("none", ""):
        raise expected(f"{file}: timm_pool", "'map' without projection", "others", "use a SigLIP")
    width, depth, heads, mlp = _TIMM[match[1]]
    # The activation is the one that the weights were trained with in big_vision. open_clip runs
    # its first SigLIPs with the exact GELU, which differs by at most 5e-4 an element.
    return VisionConfig(
        int(vision.get("image_size", match[3])), int(match[2]), width, depth, heads, mlp,
        "gelu_tanh", 1e-6,
        pool="map", pre_norm=False, conv_bias=True, proj=False, pos_resample="zoom_linear",
    )  # fmt: skip


def config_from_json(about: Mapping[str, Any], *, name: str, file: str) -> CLIPConfig:
    """Reads the architecture from open_clip's `model_cfg`.

    Raises:
        UserError: for missing keys and for any setting that we would otherwise ignore.
    """
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in about:
            raise expected(f"{file}: model_cfg", f"the key {key!r}", "none", "restore the file")
    vision, text = dict(about["vision_cfg"]), dict(about["text_cfg"])
    _only(about, _TOP_KEYS, f"{file}: model_cfg")
    _only(vision, _VISION_KEYS, f"{file}: vision_cfg")
    _only(text, _TEXT_KEYS, f"{file}: text_cfg")
    quick, siglip = bool(about.get("quick_gelu", False)), "timm_model_name" in vision
    if siglip:
        tower = _timm_tower(vision, file)
    else:
        width = vision.get("width", 768)
        tower = VisionConfig(
            image_size=vision.get("image_size", 224),
            patch_size=vision.get("patch_size", 16),
            width=width,
            depth=vision.get("layers", 12),
            heads=width // vision.get("head_width", 64),
            mlp_width=int(width * vision.get("mlp_ratio", 4.0)),
            act=_act(vision, quick),
            eps=_eps(vision),
        )
    width = text.get("width", 512)
    return CLIPConfig(
        name=name,
        embed_dim=about["embed_dim"],
        vision=tower,
        text=TextConfig(
            context=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
            width=width,
            depth=text.get("layers", 12),
            heads=text.get("heads", 8),
            mlp_width=int(width * text.get("mlp_ratio", 4.0)),
            act="gelu_tanh" if siglip else _act(text, quick),
            eps=_eps(text),
            pool=text.get("pool_type", "argmax"),
            causal=not text.get("no_causal_mask", False),
            proj_bias=bool(text.get("proj_bias", False)),
        ),
        logit_bias=about.get("init_logit_bias") is not None,
    )


def _timm_leaves(width: int) -> list[Leaf]:
    trunk, head = "visual.trunk", "visual.trunk.attn_pool"
    block = f"{trunk}.blocks.{{i}}"
    qkv = ("query", "key", "value")
    return [
        Leaf("visual/conv1/kernel", f"{trunk}.patch_embed.proj.weight", "conv"),
        Leaf("visual/conv1/bias", f"{trunk}.patch_embed.proj.bias"),
        *norm("visual/blocks/ln_1", f"{block}.norm1"),
        *packed("visual/blocks/attn", f"{block}.attn.qkv.weight", f"{block}.attn.qkv.bias", qkv),
        *linear("visual/blocks/attn/out", f"{block}.attn.proj"),
        *norm("visual/blocks/ln_2", f"{block}.norm2"),
        *linear("visual/blocks/mlp/c_fc", f"{block}.mlp.fc1"),
        *linear("visual/blocks/mlp/c_proj", f"{block}.mlp.fc2"),
        *norm("visual/ln_post", f"{trunk}.norm"),
        Leaf("visual/map_head/probe", f"{head}.latent", shape=(1, 1, width)),
        *linear("visual/map_head/attn/query", f"{head}.q"),
        *packed("visual/map_head/attn", f"{head}.kv.weight", f"{head}.kv.bias", ("key", "value")),
        *linear("visual/map_head/attn/out", f"{head}.proj"),
        *norm("visual/map_head/ln", f"{head}.norm"),
        *linear("visual/map_head/mlp/c_fc", f"{head}.mlp.fc1"),
        *linear("visual/map_head/mlp/c_proj", f"{head}.mlp.fc2"),
    ]


def leaves(config: CLIPConfig, source: Mapping[str, Any] | None = None) -> list[Leaf]:
    """Names all parameters as open_clip does.

    Args:
        config: a CLIP (OpenAI's names) or a SigLIP (timm's image tower).
        source: the arrays, which decide between the two places of the text tower.
    """
    source = {} if source is None else source
    siglip = config.vision.pool == "map"
    prefix = "text." if siglip or "text.token_embedding.weight" in source else ""
    if siglip:
        v = config.vision
        shape = (1, v.grid**2, v.width)
        position = Leaf("visual/positional_embedding", "visual.trunk.pos_embed", shape=shape)
        rows = [*_timm_leaves(v.width), position]
    else:
        rows = openai.vision_leaves()
    rows += openai.text_leaves(prefix, proj_bias=config.text.proj_bias)
    rows.append(scalar(source, "logit_scale", "logit_scale"))
    if config.logit_bias:
        rows.append(scalar(source, "logit_bias", "logit_bias"))
    return rows


def preprocess_from_json(about: Mapping[str, Any], size: int, *, file: str) -> Preprocess:
    """Reads open_clip's `preprocess_cfg`; unknown resize rules raise UserError."""
    modes = {"shortest": "short_side_crop", "squash": "squash"}
    mode, interpolation = (
        about.get("resize_mode", "shortest"),
        about.get("interpolation", "bicubic"),
    )
    if mode not in modes:
        unknown_name(str(mode), modes, f"{file}: resize_mode")
    if interpolation not in ("bicubic", "bilinear"):
        unknown_name(str(interpolation), ("bicubic", "bilinear"), f"{file}: interpolation")
    return Preprocess(
        size=size,
        mean=tuple(about.get("mean", Preprocess.mean)),
        std=tuple(about.get("std", Preprocess.std)),
        resize=modes[mode],
        interpolation=interpolation,
    )


def load_open_clip(folder: Path) -> LoadedClip:
    """Loads an open_clip folder.

    Raises:
        UserError: for files that are missing, broken, unsupported or do not fit one another.
    """
    file = str(folder / CONFIG_FILE)
    about = read_json(folder / CONFIG_FILE)
    model = about.get("model_cfg", about)
    config = config_from_json(model, name=folder.name, file=file)
    weights, source = open_weights(folder, STEMS)
    params, report = convert(
        source, leaves(config, source), config, file=str(weights), allow=openai.ALLOW
    )
    text = model["text_cfg"]
    context, vocab_size = config.text.context, config.text.vocab_size
    if config.vision.pool == "map":
        clean = (text.get("tokenizer_kwargs") or {}).get("clean")
        tokenizer = siglip_vocabulary(folder, context=context, vocab_size=vocab_size, clean=clean)
    else:
        tokenizer = clip_vocabulary(folder, context=context, vocab_size=vocab_size, pad_end=False)
        # open_clip's own tokenizer pads with 0 whatever the folder says for other libraries.
        if "hf_tokenizer_name" not in text:
            tokenizer.pad = 0
    return LoadedClip(
        config=config,
        params=params,
        preprocess=preprocess_from_json(
            about.get("preprocess_cfg", {}), config.vision.image_size, file=file
        ),
        tokenizer=tokenizer,
        provenance=unknown_provenance(folder),
        defaults={},
        report=report,
    )


def to_state_dict(
    params: Params, config: CLIPConfig, dtype: Any = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields open_clip's names and arrays."""
    return export(params, leaves(config), dtype)
