"""big_vision beside us: what it calls a model of ours, and our joint operations in its registry.

Nothing here imports big_vision or TensorFlow until it is called.
"""

from __future__ import annotations

from typing import Any

from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig


def model_config(config: CLIPConfig, *, scan: bool = False) -> dict[str, Any]:
    """Describes a SigLIP or LiT as `config.model` of big_vision's two_towers.

    Args:
        config: ours; what `weights.big_vision.save_npz` can write.
        scan: blocks are stacked. Their image loader takes either layout and their text loader
            only the one that the model has, so this has to match the file.
    """
    v, t = config.vision, config.text

    def tower(c: VisionConfig | TextConfig) -> dict[str, Any]:
        return {
            "width": c.width, "depth": c.depth, "mlp_dim": c.mlp_width, "num_heads": c.heads,
            "scan": scan,
        }  # fmt: skip

    image = {
        **tower(v), "patch_size": (v.patch_size, v.patch_size),
        "pool_type": {"map": "map", "class": "tok"}[v.pool],
    }  # fmt: skip
    about: dict[str, Any] = {
        "image": image,
        "out_dim": (config.embed_dim if v.proj else None, config.embed_dim),
    }
    if t.post_norm:
        about["text_model"] = "proj.flaxformer.bert"
        about["text"] = {"config": "large" if t.width > 768 else "base"}
    else:
        about["text"] = {**tower(t), "vocab_size": t.vocab_size}
    if config.logit_bias:
        about["bias_init"] = -10.0
    return about
