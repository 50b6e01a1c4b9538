"""big_vision beside us: what it calls a model of ours, and our joint operations in its registry.

Nothing here imports big_vision or TensorFlow until it is called.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from openseg_jax.compat.joint import JOINT, Data, Op, two_sides
from openseg_jax.errors import UserError
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


def register(*, replace: bool = False) -> list[str]:
    """Puts our joint image-mask operations into big_vision's registry, once or again.

    Call it where a config is read, before its strings are: big_vision imports only modules of its
    own by name (`pp_modules`). Then e.g. `"decode|joint_inception_crop(224)|joint_flip_lr|…"`
    moves `image` and `labels` together. They work in `tf.data`, eagerly and on NumPy arrays.

    Args:
        replace: take the place of operations of the same names.

    Returns:
        The names, as strings spell them.

    Raises:
        UserError: when big_vision cannot be imported, or a name is taken.
    """
    try:
        registry = importlib.import_module("big_vision.pp.registry").Registry
    except ImportError as error:
        raise UserError(
            f"big_vision: cannot be imported ({error}); it has no package: clone it and put its "
            "folder on PYTHONPATH"
        ) from error
    for name, factory in JOINT.items():
        key = f"preprocess_ops.{name}"
        there = registry.global_registry().get(key)
        if getattr(there, "openseg_jax", None) is not None:
            continue
        if there is not None and not replace:
            raise UserError(f"{key}: somebody registered that name; say replace=True to take it")
        registry.register(key, replace=replace)(_bridged(factory))
    return list(JOINT)


def _bridged(factory: Callable[..., Op]) -> Callable[..., Callable[[Data], Data]]:
    """Turns `factory(...) -> op(data, rng)` into big_vision's `factory(...) -> op(data)`."""

    def get_op(*args: Any, **kw: Any) -> Callable[[Data], Data]:
        op = factory(*args, **kw)
        said = inspect.signature(factory).bind(*args, **kw)
        said.apply_defaults()
        keys: list[str] = []
        for name in ("images", "masks", "image", "labels"):
            value = said.arguments.get(name, ())
            keys += [value] if isinstance(value, str) else list(value)
        sides = next(
            (said.arguments[n] for n in ("size", "crop_size", "crop") if n in said.arguments), None
        )

        def run(data: Data) -> Data:
            if any(type(data.get(key)).__module__.startswith("tensorflow") for key in keys):
                return _in_tensorflow(op, data, keys, sides)
            # NumPy's global state is what people seed where big_vision runs without tf.data.
            return op(data, np.random.default_rng(np.random.randint(2**31 - 1)))

        return run

    get_op.openseg_jax = factory.__name__  # type: ignore[attr-defined]
    get_op.__doc__ = factory.__doc__
    return get_op


def _in_tensorflow(op: Op, data: Data, keys: list[str], sides: Any) -> Data:
    """Runs an operation within a graph. Chance is TensorFlow's, so that its seeds decide."""
    # It made the tensors: it is there. We never import it.
    tf: Any = sys.modules["tensorflow"]
    tensors = [data[key] for key in keys]
    dtypes = [tensor.dtype.as_numpy_dtype for tensor in tensors]
    seed = tf.random.uniform([], 0, 2**31 - 1, tf.int32)

    def run(seed: Any, *arrays: np.ndarray) -> list[np.ndarray]:
        out = op(dict(zip(keys, arrays, strict=True)), np.random.default_rng(int(seed)))
        return [np.ascontiguousarray(out[k], d) for k, d in zip(keys, dtypes, strict=True)]

    outs = tf.numpy_function(run, [seed, *tensors], [tensor.dtype for tensor in tensors])
    for out, tensor in zip(outs, tensors, strict=True):
        # numpy_function forgets shapes, and batching needs them.
        if tensor.shape.rank is not None:
            known = (None, None) if sides is None else two_sides(sides)
            out.set_shape([*known, *tensor.shape[2:]])
    return {**data, **dict(zip(keys, outs, strict=True))}
