"""Segment Anything: from a picture and prompts to masks that know no classes.

What surrounds the network is here too: how a picture is fitted to its canvas, where a regular grid
of points lies on it, and how low-resolution logits come back to the picture's size.

Source: Kirillov et al. 2023 (code Apache-2.0), in the shape that `transformers` publishes.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.errors import UserError, check_shape
from openseg_jax.models.sam_decoder import OBJECT, Prompts, SamDecoder, SamDecoderConfig
from openseg_jax.models.sam_encoder import SamEncoder, SamEncoderConfig
from openseg_jax.ops.resize import half_pixel
from openseg_jax.ops.resize_uint8 import resize_on_host
from openseg_jax.types import Array, Float, Int, Params, UInt8

__all__ = [
    "Sam",
    "SamConfig",
    "fit",
    "fitted_size",
    "mask_matrices",
    "normalise",
    "point_grid",
    "sam_spec",
]


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """The whole model.

    Attributes:
        name: for people.
        encoder, decoder: the two parts; `encoder.out_width == decoder.width`.
        mean, std: of the pixels, one a channel, in [0, 255].
    """

    name: str
    encoder: SamEncoderConfig
    decoder: SamDecoderConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_size(self) -> int:
        """S, pixels a side of the canvas."""
        return self.encoder.image_size

    @property
    def mask_size(self) -> int:
        """Pixels a side of the low-resolution masks."""
        return 4 * self.encoder.grid


class Sam(nn.Module):
    """Encodes pictures once and decodes any number of prompts on them.

    Attributes:
        config: sizes.
        dtype: of the computation, float32 or bfloat16; parameters stay float32.
    """

    config: SamConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        c = self.config
        self.encoder = SamEncoder(c.encoder, self.dtype)
        self.prompts = Prompts(c.decoder, c.image_size, self.dtype)
        self.decoder = SamDecoder(c.decoder, self.dtype)

    def encode(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B h w E"]:
        """Embeds normalised pictures."""
        return self.encoder(image)

    def decode(
        self,
        embedding: Float[Array, "h w E"],
        points: Float[Array, "P K 2"] | None = None,
        labels: Int[Array, "P K"] | None = None,
        *,
        boxes: Float[Array, "P 4"] | None = None,
        masks: Float[Array, "P 4h 4w"] | None = None,
        multimask: bool = True,
    ) -> tuple[Float[Array, "P M 4h 4w"], Float[Array, "P M"]]:
        """Decodes P prompts on one picture, each of points, a box, or both.

        Args:
            embedding: of the picture, from `encode`.
            points: K points (x, y) of each prompt, in pixels of the canvas.
            labels: what they mean, see `sam_decoder`; None: each is on the object.
            boxes: (x0, y0, x1, y1) of each prompt, in pixels of the canvas.
            masks: logits of an earlier mask for each prompt, or one for all of them.
            multimask: three masks a prompt (whole, part and subpart); False gives one.

        Returns:
            Mask logits (above 0 is inside), and the predicted IoU of each mask.

        Raises:
            UserError: for neither points nor boxes.
        """
        if points is None and boxes is None:
            raise UserError("prompts: expected points or boxes, got neither; give one of them")
        sparse = []
        if points is not None:
            if labels is None:
                labels = jnp.full(points.shape[:2], OBJECT, jnp.int32)
            sparse.append(self.prompts.points(points, labels, alone=boxes is None))
        if boxes is not None:
            sparse.append(self.prompts.boxes(boxes))
        places = self.prompts.grid(embedding.shape[0])
        image = embedding[None] + self.prompts.masks(masks).astype(embedding.dtype)
        return self.decoder(image, places, jnp.concatenate(sparse, axis=1), multimask=multimask)

    def __call__(
        self,
        image: Float[Array, "1 S S 3"],
        points: Float[Array, "P K 2"],
        masks: Float[Array, "P 4h 4w"] | None = None,
    ) -> tuple[Float[Array, "P M 4h 4w"], Float[Array, "P M"]]:
        """Encodes one normalised picture and decodes points on it."""
        return self.decode(self.encode(image)[0], points, masks=masks)


@functools.lru_cache(maxsize=8)
def sam_spec(config: SamConfig) -> Params:
    """Lists the parameters with their shapes; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    points = jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)
    # The mask prompt is given so that its convolutions exist.
    masks = jax.ShapeDtypeStruct((1, config.mask_size, config.mask_size), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Sam(config).init, key, image, points, masks)["params"]


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the (h, w) of a picture whose long side is brought to `side`; halves round up."""
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def fit(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Brings a picture's long side to `side` and puts it at the top left of the canvas.

    Source: Pillow's bilinear resize, as the published processor; what is beyond the picture is
    set by `normalise`.

    Raises:
        UserError: for no UInt8[H W 3], or a picture so long that its short side would vanish.
    """
    check_shape(image, "H W 3", "image", dtype="uint8", fix="give RGB bytes")
    size = fitted_size((image.shape[0], image.shape[1]), side)
    if min(size) < 1:
        raise UserError(
            f"image: expected sides of at most 1 : {2 * side}, got {image.shape[0]}×"
            f"{image.shape[1]}; crop it"
        )
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[: size[0], : size[1]] = resize_on_host(image, size, "bilinear")
    return canvas


def normalise(
    canvas: UInt8[Array, "S S 3"], size: Int[Array, "2"], config: SamConfig
) -> Float[Array, "S S 3"]:
    """Scales the pixels of a picture that `fit` fitted; beyond its `size` all is 0.

    Args:
        canvas: the picture at the top left.
        size: its (h, w), ints or traced.
        config: says mean and std.
    """
    mean, std = (np.asarray(v, np.float32) for v in (config.mean, config.std))
    pixels = (canvas.astype(jnp.float32) - mean) / std
    at = jnp.arange(canvas.shape[0])
    inside = (at < size[0])[:, None] & (at < size[1])[None, :]
    return jnp.where(inside[..., None], pixels, 0)


def point_grid(count: int, size: tuple[int, int], side: int) -> Float[np.ndarray, "N 2"]:
    """Spreads count × count points over a picture, row by row.

    Args:
        count: points a side.
        size: (H, W) of the picture.
        side: S of the canvas that it is fitted to.

    Returns:
        (x, y) in pixels of the canvas, N = count².
    """
    at = (np.arange(count) + 0.5) / count
    h, w = fitted_size(size, side)
    x, y = np.meshgrid(at * w, at * h, indexing="xy")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def mask_matrices(
    size: tuple[int, int], config: SamConfig
) -> tuple[Float[np.ndarray, "H m"], Float[np.ndarray, "W m"]]:
    """Builds the matrices that bring low-resolution logits to a picture's size.

    The published way enlarges them to the canvas, cuts out the picture and resizes that to
    (H, W), each time bilinearly. All of it is linear, and so one matrix an axis.

    Args:
        size: (H, W) of the picture.
        config: of the model.

    Returns:
        For `ops.resize.apply_matrices`, float32; m is `config.mask_size`.
    """
    side = config.image_size
    whole = half_pixel(config.mask_size, side)
    pair = [
        (half_pixel(new, old) @ whole[:new]).astype(np.float32)
        for old, new in zip(size, fitted_size(size, side), strict=True)
    ]
    return pair[0], pair[1]
