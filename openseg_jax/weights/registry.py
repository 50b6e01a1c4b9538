"""Known weights by name: where they are, under what licence, and what they saw in training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from openseg_jax.errors import UserError, unknown_name
from openseg_jax.weights.tensors import find_weights

MINIATURE = Path(__file__).parent.parent / "miniature" / "weights"
_TEXT_FILES = ("*.json", "*.txt", "*.model")


@dataclasses.dataclass(frozen=True)
class Known:
    """One row of the table.

    Attributes:
        name: what the user writes.
        variant: the architecture, a key of `models.variants.VARIANTS`; "" where the weights'
            own config.json says all.
        repo: repository on the Hugging Face hub.
        stems: weight files there without suffix, in order of preference.
        licence: of the weights.
        saw: what they saw in training, for whoever judges a zero-shot claim.
        parameters: in millions.
    """

    name: str
    variant: str
    repo: str
    stems: tuple[str, ...]
    licence: str
    saw: str
    parameters: float

    def provenance(self) -> dict[str, str]:
        """Returns the line that travels with the weights."""
        return {
            "name": self.name,
            "source": f"https://huggingface.co/{self.repo}",
            "licence": self.licence,
            "saw": self.saw,
        }


_OPEN_CLIP = ("open_clip_model", "open_clip_pytorch_model")
_HF = ("model",)
_WIT = "400 M image-text pairs from the web, chosen by OpenAI, not published"
_LAION = "LAION-2B, the English part of LAION-5B; 34 G samples seen"
_LAION_H = "LAION-2B, the English part of LAION-5B; 32 G samples seen"
_DATACOMP = "DataComp-1B, filtered web pairs; 13 G samples seen"
_WEBLI = "WebLI, English image-text pairs from the web; sigmoid loss"
_WEBLI2 = "WebLI, 109 languages; sigmoid loss, captioning, self-distillation"

KNOWN: dict[str, Known] = {
    k.name: k
    for k in (
        Known("ViT-B-32", "ViT-B-32", "timm/vit_base_patch32_clip_224.openai", _OPEN_CLIP,
              "MIT", _WIT, 151.3),
        Known("ViT-B-16", "ViT-B-16", "timm/vit_base_patch16_clip_224.openai", _OPEN_CLIP,
              "MIT", _WIT, 149.6),
        Known("ViT-L-14", "ViT-L-14", "timm/vit_large_patch14_clip_224.openai", _OPEN_CLIP,
              "MIT", _WIT, 427.6),
        Known("ViT-L-14-336", "ViT-L-14-336", "timm/vit_large_patch14_clip_336.openai",
              _OPEN_CLIP, "MIT", _WIT, 427.9),
        Known("ViT-B-16-laion", "ViT-B-16-laion", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
              _OPEN_CLIP, "MIT", _LAION, 149.6),
        Known("ViT-H-14", "ViT-H-14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", _OPEN_CLIP,
              "MIT", _LAION_H, 986.1),
        Known("ViT-B-16-datacomp", "ViT-B-16-laion", "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
              _OPEN_CLIP, "MIT", _DATACOMP, 149.6),
        Known("SigLIP-B-16", "SigLIP-B-16", "google/siglip-base-patch16-224", _HF,
              "Apache-2.0", _WEBLI, 203.2),
        Known("SigLIP-B-16-256", "SigLIP-B-16-256", "google/siglip-base-patch16-256", _HF,
              "Apache-2.0", _WEBLI, 203.2),
        Known("SigLIP-B-16-384", "SigLIP-B-16-384", "google/siglip-base-patch16-384", _HF,
              "Apache-2.0", _WEBLI, 203.4),
        Known("SigLIP-B-16-512", "SigLIP-B-16-512", "google/siglip-base-patch16-512", _HF,
              "Apache-2.0", _WEBLI, 203.8),
        Known("SigLIP-L-16-256", "SigLIP-L-16-256", "google/siglip-large-patch16-256", _HF,
              "Apache-2.0", _WEBLI, 652.2),
        Known("SigLIP-L-16-384", "SigLIP-L-16-384", "google/siglip-large-patch16-384", _HF,
              "Apache-2.0", _WEBLI, 652.5),
        Known("SigLIP-So400m-14", "SigLIP-So400m-14", "google/siglip-so400m-patch14-224", _HF,
              "Apache-2.0", _WEBLI, 877.4),
        Known("SigLIP-So400m-14-384", "SigLIP-So400m-14-384", "google/siglip-so400m-patch14-384",
              _HF, "Apache-2.0", _WEBLI, 878.0),
        Known("SigLIP2-B-16", "SigLIP2-B-16", "google/siglip2-base-patch16-224", _HF,
              "Apache-2.0", _WEBLI2, 375.2),
        Known("SigLIP2-B-16-256", "SigLIP2-B-16-256", "google/siglip2-base-patch16-256", _HF,
              "Apache-2.0", _WEBLI2, 375.2),
        Known("SigLIP2-B-16-384", "SigLIP2-B-16-384", "google/siglip2-base-patch16-384", _HF,
              "Apache-2.0", _WEBLI2, 375.5),
        Known("SigLIP2-L-16-256", "SigLIP2-L-16-256", "google/siglip2-large-patch16-256", _HF,
              "Apache-2.0", _WEBLI2, 881.5),
        Known("SigLIP2-So400m-14", "SigLIP2-So400m-14", "google/siglip2-so400m-patch14-224", _HF,
              "Apache-2.0", _WEBLI2, 1135.5),
        Known("SigLIP2-So400m-14-384", "SigLIP2-So400m-14-384",
              "google/siglip2-so400m-patch14-384", _HF, "Apache-2.0", _WEBLI2, 1136.0),
        Known("SigLIP2-g-opt-16-256", "SigLIP2-g-opt-16-256",
              "google/siglip2-giant-opt-patch16-256", _HF, "Apache-2.0", _WEBLI2, 1871.4),
    )
}  # fmt: skip

# Segment Anything knows masks and no words: these refine masks and cannot be a --model.
_SA = "SA-1B: 11 M licensed photographs with 1.1 G masks, without class names; from an MAE"
SAMS: dict[str, Known] = {
    k.name: k
    for k in (
        Known("SAM-B", "", "facebook/sam-vit-base", _HF, "Apache-2.0", _SA, 93.7),
        Known("SAM-L", "", "facebook/sam-vit-large", _HF, "Apache-2.0", _SA, 312.3),
        Known("SAM-H", "", "facebook/sam-vit-huge", _HF, "Apache-2.0", _SA, 641.1),
    )
}


def known_sam(name: str) -> Known:
    """Looks a Segment Anything up.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    if name not in SAMS:
        unknown_name(name, SAMS, "Segment Anything")
    return SAMS[name]


def known(name: str) -> Known:
    """Looks a name up; OpenAI's spelling (ViT-B/16, ViT-L/14@336px) is understood too.

    Raises:
        UserError: for an unknown name, with the closest one, or one that is no CLIP.
    """
    plain = name.replace("/", "-").replace("@", "-").removesuffix("px")
    if plain in SAMS:
        raise UserError(
            f"model: expected a CLIP, got {name!r}, which knows masks and no words; name it with "
            "--sam to refine masks, and a CLIP, e.g. ViT-B-16, with --model"
        )
    if plain not in KNOWN:
        unknown_name(name, ["miniature", *KNOWN], "model")
    return KNOWN[plain]


def _snapshot(entry: Known, stem: str, *, local: bool) -> Path:
    # Imported here: it takes half a second, and most runs do not need it.
    import huggingface_hub

    patterns = [*_TEXT_FILES, f"{stem}.safetensors", f"{stem}.bin"]
    return Path(
        huggingface_hub.snapshot_download(
            entry.repo, allow_patterns=patterns, local_files_only=local
        )
    )


def cached_folder(entry: Known) -> Path | None:
    """Returns the folder in the hub's cache that holds these weights, or None. No network."""
    for stem in entry.stems:
        try:
            folder = _snapshot(entry, stem, local=True)
        except Exception:  # the hub raises many types for "not here", and none is trouble
            return None
        if find_weights(folder, (stem,)) is not None:
            return folder
    return None


def resolve(entry: Known) -> Path:
    """Returns a folder with the weights: from the hub's cache, else downloaded into it.

    Raises:
        UserError: when they are not in the cache and cannot be downloaded, saying how to get them.
    """
    folder = cached_folder(entry)
    reason = "the repository has no weight file of a known name"
    if folder is None:
        for stem in entry.stems:
            try:
                folder = _snapshot(entry, stem, local=False)
            except Exception as error:  # no network, no access, no such revision, full disk
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
                break
            if find_weights(folder, (stem,)) is not None:
                return folder
        instead = "leave --sam out" if entry.name in SAMS else "use --model miniature"
        raise UserError(
            f"model {entry.name!r}: not in the local cache, and the download failed ({reason}); "
            f"where there is a network run `hf download {entry.repo}`, copy the folder here and "
            f"give its path, or {instead}"
        )
    return folder
