"""The model card that goes to the hub with a folder: what the weights are, and what they saw."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openseg_jax.errors import expected

# What nobody may publish weights without, and the flag that says it.
NEEDED = {"licence": "--licence", "source": "--source", "saw": "--saw"}
_UNKNOWN = re.compile(r"\s*(unknown\b.*|none|n/a|\?*|todo.*)\s*", re.IGNORECASE | re.DOTALL)
# The hub's names of licences that weights come under; it calls all others "other".
_LICENCES = {
    "mit": "mit", "apache-2.0": "apache-2.0", "apache 2.0": "apache-2.0",
    "bsd-3-clause": "bsd-3-clause", "bsd-2-clause": "bsd-2-clause", "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0", "cc-by-nc-4.0": "cc-by-nc-4.0", "cc0-1.0": "cc0-1.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0", "openrail": "openrail", "gemma": "gemma",
}  # fmt: skip


def complete_provenance(
    provenance: Mapping[str, str], given: Mapping[str, str | None]
) -> dict[str, str]:
    """Puts what the person said over what the folder says, and checks that nothing is unknown.

    Args:
        provenance: of the folder.
        given: "licence", "source" and "saw" as said on the command line, None where not.

    Raises:
        UserError: naming the flag, for what neither says. A source on somebody's disk is none.
    """
    said = {key: value for key, value in given.items() if value is not None}
    full = {key: str(value) for key, value in {**provenance, **said}.items()}
    for key, flag in NEEDED.items():
        value = full.get(key, "")
        local = key == "source" and value.startswith(("/", ".", "~"))
        if _UNKNOWN.fullmatch(value) or local:
            raise expected(
                key, "a line that tells whoever downloads the weights", repr(value),
                f"say it with {flag} \"…\"",
            )  # fmt: skip
    return full


def write_card(
    about: Mapping[str, Any],
    repo: str,
    *,
    evaluation: Sequence[tuple[str, str, str, float]] = (),
    megabytes: float = 0.0,
) -> str:
    """Writes README.md: the hub's header, provenance, licence, use, and numbers if there are any.

    Args:
        about: the folder's config.json, its provenance complete.
        repo: "owner/name" on the hub.
        evaluation: (benchmark, method, metric, value) rows.
        megabytes: of all files.
    """
    provenance = dict(about["provenance"])
    name, model = str(provenance.get("name") or repo.split("/")[1]), about["model"]
    extras = sorted(about.get("extras", {}))
    parts = [
        _header(provenance, extras),
        f"# {_line(name)}",
        f"{_what(model)}, for open-vocabulary segmentation with openseg_jax."
        + (f" Carries trained parts of {' and '.join(extras)}." if extras else ""),
        "## Provenance",
        _provenance(provenance),
        "## Use",
        _use(repo, about, extras),
        "## Model",
        _sizes(about, megabytes),
    ]
    if evaluation:
        parts += ["## Evaluation", _numbers(evaluation)]
    parts += [
        "## Limits",
        "What the weights saw (above) decides which claims of zero-shot transfer they can carry. "
        "They inherit the biases of those pictures and texts; nobody has examined them for use "
        "on people.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(provenance: Mapping[str, str], extras: Sequence[str]) -> str:
    """The hub reads the block between dashes; JSON strings are YAML, whatever they hold."""
    licence = str(provenance["licence"])
    known = _LICENCES.get(licence.lower())
    rows = [f"license: {known or 'other'}"]
    if known is None:
        rows.append(f"license_name: {json.dumps(_slug(licence))}")
    rows += ["library_name: openseg_jax", "pipeline_tag: image-segmentation"]
    base = re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", provenance["source"])
    if base:
        rows.append(f"base_model: {json.dumps(base[1])}")
    tags = ["jax", "flax", "clip", "open-vocabulary-segmentation", *extras]
    return "\n".join(["---", *rows, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:60] or "other"


def _line(text: str) -> str:
    """Puts text on one line, without what Markdown would take for markup."""
    plain = " ".join(str(text).split())
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", plain)


def _what(model: Mapping[str, Any]) -> str:
    vision, text = model["vision"], model["text"]
    kind = "A LiT" if text.get("post_norm") else "A SigLIP" if vision["pool"] == "map" else "A CLIP"
    return (
        f"{kind} with a ViT of {vision['depth']} blocks of width {vision['width']}, patches of "
        f"{vision['patch_size']} pixels, at {vision['image_size']} pixels"
    )


def _provenance(provenance: Mapping[str, str]) -> str:
    titles = {"source": "Source", "licence": "Licence", "saw": "Saw in training"}
    rows = [f"- **{title}**: {_linked(provenance[key])}" for key, title in titles.items()]
    rows += [
        f"- **{_line(key).capitalize()}**: {_linked(value)}"
        for key, value in provenance.items()
        if key not in titles and key != "name"
    ]
    return "\n".join(rows)


def _linked(text: str) -> str:
    return f"<{text}>" if re.fullmatch(r"https?://[^\s<>]+", str(text)) else _line(text)


def _use(repo: str, about: Mapping[str, Any], extras: Sequence[str]) -> str:
    labels = list(about.get("defaults", {}).get("labels", ()))[:2] or ["zebra", "grass"]
    method = extras[0] if extras else "car"
    flags = "" if method == "car" else f" --method {method}"
    words = ", ".join(labels)
    code = (
        "import openseg_jax\n\n"
        f"result = openseg_jax.segment(\"photo.jpg\", {json.dumps(labels)}, method=\"{method}\",\n"
        f"                             model=\"hf:{repo}\")\n"
    )  # fmt: skip
    shell = f'openseg segment photo.jpg --labels "{words}"{flags} --model hf:{repo}\n'
    return (
        f"With openseg_jax installed:\n\n```bash\n{shell}```\n\n```python\n{code}```\n\n"
        f"`openseg pull {repo} FOLDER` copies the files; `openseg convert` turns them into other "
        "formats."
    )


def _sizes(about: Mapping[str, Any], megabytes: float) -> str:
    model, preprocess, tokenizer = about["model"], about["preprocess"], about["tokenizer"]
    rows = [
        ("joint width", model["embed_dim"]),
        ("image tower", _tower(model["vision"])),
        ("text tower", f"{_tower(model['text'])}, {model['text']['vocab_size']} tokens"),
        ("image", f"{preprocess['size']} pixels, {preprocess['resize']}, "
                  f"{preprocess['interpolation']}"),
        ("text", f"{tokenizer['context']} tokens a row, clean-up: {tokenizer['clean']}"),
    ]  # fmt: skip
    if megabytes:
        rows.append(("files", f"{megabytes:,.1f} MB, safetensors"))
    return "\n".join(["| part | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def _tower(c: Mapping[str, Any]) -> str:
    return f"{c['depth']} blocks, width {c['width']}, {c['heads']} heads, {c['act']}"


def _numbers(rows: Sequence[tuple[str, str, str, float]]) -> str:
    table = ["| benchmark | method | metric | value |", "|---|---|---|---|"]
    table += [
        f"| {_line(bench)} | {_line(method)} | {_line(metric)} | {value:.4g} |"
        for bench, method, metric, value in rows
    ]
    return "\n".join([*table, "", "Measured by `openseg evaluate` on these weights."])
