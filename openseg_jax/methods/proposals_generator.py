"""Learnt proposals: the generator that comes with MAFT's weights, or a Mask2Former."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from openseg_jax.errors import UserError, expected
from openseg_jax.models.generator import STRIDE, Generator, GeneratorConfig, generator_spec
from openseg_jax.ops.resize import resize
from openseg_jax.types import Array, Bool, Float, Params, UInt8
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.mask2former import load_mask2former as read_mask2former
from openseg_jax.weights.tree import check_params, flatten

__all__ = ["GeneratorProposals", "load", "load_mask2former"]


class GeneratorProposals:
    """Proposes the masks of a generator's queries. A `ProposalSource`.

    Masks come out at the size of the image: logits are enlarged with aligned corners before the
    sigmoid, as published. All queries are kept, also those whose masks are empty.

    Attributes:
        params: of the generator.
        config: of the generator.
    """

    def __init__(
        self, config: GeneratorConfig, params: Params, dtype: Any = jnp.float32,
        temperature: float = 100.0,
    ) -> None:  # fmt: skip
        self.config, self.temperature = config, temperature
        self.params: Params = jax.tree.map(jnp.asarray, dict(params))
        self._module = Generator(config, dtype)

    def propose(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Float[Array, "G E"],
        valid: Bool[Array, "B H W"] | None = None,
    ) -> tuple[Float[Array, "B M H W"], Bool[Array, "B M"]]:
        """Proposes masks; arguments as in `ProposalSource`."""
        probs, exists, _ = self._run(params, image, text, valid)
        return probs, exists

    def propose_scored(
        self,
        params: Params,
        image: UInt8[Array, "B H W 3"],
        text: Float[Array, "G E"],
        valid: Bool[Array, "B H W"] | None = None,
    ) -> tuple[Float[Array, "B M H W"], Bool[Array, "B M"], Float[Array, "B M C"]]:
        """Also says what the masks show: probabilities of the classes, C = G − 1.

        They are a softmax over all rows, of which the non-object row is dropped: what is missing
        to 1 is the probability of no object. Padded rows get 0.
        """
        if self.config.interaction is None:
            raise UserError("ensemble_weight: a Mask2Former knows none of the classes; set it to 0")
        probs, exists, embed = self._run(params, image, text, valid)
        embed = embed.astype(jnp.float32)
        embed = embed / jnp.linalg.norm(embed, axis=-1, keepdims=True)
        logits = self.temperature * jnp.einsum("bme,ge->bmg", embed, text)
        logits = jnp.where((text != 0).any(axis=-1), logits, -jnp.inf)
        return probs, exists, jax.nn.softmax(logits)[..., :-1]

    def _run(self, params: Params, image: Any, text: Any, valid: Any) -> tuple[Array, Array, Array]:
        apply: Any = self._module.apply
        variables = {"params": params}
        if self.config.interaction is None:
            out = apply(variables, image, valid=valid)
        else:
            text_valid = (text != 0).any(axis=-1)
            out = apply(variables, image, text, text_valid=text_valid, valid=valid)
        logits, embed = out["masks"][-1], out["class_embed"][-1]
        height, width = image.shape[1:3]
        canvas = (height + -height % STRIDE, width + -width % STRIDE)
        logits = resize(logits, canvas, convention="align_corners")[..., :height, :width]
        return jax.nn.sigmoid(logits), jnp.ones(logits.shape[:2], bool), embed


def load(model: LoadedClip, *, dtype: str = "float32") -> GeneratorProposals:
    """Builds the generator that the weights carry.

    Args:
        model: a loaded CLIP with extra weights of MAFT.
        dtype: of the computation, "float32" or "bfloat16".

    Raises:
        UserError: for weights without a generator, or one that does not fit its settings.
    """
    extra = model.extras.get("maft", {})
    about = model.extras_config.get("maft", {}).get("generator")
    if "generator" not in extra or not isinstance(about, Mapping):
        raise expected(
            "proposals", "weights with a generator",
            f"{model.provenance.get('name', 'a CLIP')!r} without one",
            "convert MAFT's or FreeSeg's checkpoint (openseg convert), train one (openseg train "
            "--config maft_stage1), or take proposals='regions'",
        )  # fmt: skip
    config = GeneratorConfig.from_dict(dict(about))
    check_params(extra["generator"], flatten(generator_spec(config)), "generator")
    return GeneratorProposals(config, extra["generator"], jnp.dtype(dtype))


def load_mask2former(
    model: Any, *, folder: str | os.PathLike[str] | None = None, dtype: str = "float32"
) -> GeneratorProposals:
    """Builds a class-agnostic proposer from a Mask2Former of transformers.

    Args:
        model: plays no part; the masks' classes come from MAFT.
        folder: with config.json and the weights.
        dtype: of the computation, "float32" or "bfloat16".

    Raises:
        UserError: without a folder, or for one that does not hold a supported model.
    """
    del model
    if folder is None:
        raise UserError(
            "folder: expected a Mask2Former's folder, got none; download one and name it, e.g. "
            "proposal_settings={'folder': 'mask2former-swin-tiny-coco-instance'}"
        )
    config, params, _ = read_mask2former(Path(folder))
    return GeneratorProposals(config, params, jnp.dtype(dtype))
