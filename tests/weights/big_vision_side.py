"""big_vision's side of an npz file: what its loader does with names, and what its towers compute.

Written from its published formats, with flax's own layers, so that names come from flax's
numbering and sums from flax's attention. Where big_vision itself can be imported, the same tests
use it instead.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


def recover(flat: dict[str, Any]) -> dict[str, Any]:
    """Nests names at their slashes, as `u.recover_tree` does."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        node = tree
        *path, last = name.split("/")
        for part in path:
            node = node.setdefault(part, {})
        assert last not in node, f"{name}: both a leaf and a branch"
        node[last] = value
    return tree


def load_params(spec: str) -> Any:
    """Opens "dir/file.npz[:subtree]", as `u.load_params` does: the path needs a slash."""
    match = re.match(r"^(.*?/.*?)(?::([\w/]+))?$", spec)
    assert match, "Weird ckpt path"
    path, key = match.groups()
    with np.load(path, allow_pickle=False) as file:
        flat = dict(file)
    for name, array in flat.items():
        if array.dtype.type is np.void:
            assert array.itemsize == 2
            flat[name] = array.view(ml_dtypes.bfloat16)
    tree = recover(flat)
    if "params" in tree:
        tree = tree["params"]
    elif "opt" in tree:
        tree = tree["opt"]["target"]
    for part in key.split("/") if key else ():
        tree = tree[part]
    return tree


def to_layout(tower: dict[str, Any], encoder: str, scan: bool) -> dict[str, Any]:
    """Stacks blocks or takes them apart; big_vision does so for the image tower only."""
    blocks = dict(tower[encoder])
    if scan and "encoderblock" not in blocks:
        names = [f"encoderblock_{i}" for i in range(len(blocks) - 1)]
        stack = jax.tree.map(lambda *x: np.stack(x), *[blocks.pop(n) for n in names])
        blocks["encoderblock"] = stack
    elif not scan and "encoderblock" in blocks:
        stack = blocks.pop("encoderblock")
        for i in range(len(stack["LayerNorm_0"]["bias"])):
            blocks[f"encoderblock_{i}"] = jax.tree.map(lambda x, i=i: x[i], stack)
    return {**tower, encoder: blocks}


def merge(loaded: Any, wanted: Any) -> Any:
    """Checks names and shapes on both sides, as `common.merge_params` and flax then do."""
    shapes = [
        {jax.tree_util.keystr(path): tuple(x.shape) for path, x in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (loaded, wanted))
    ]
    assert shapes[0] == shapes[1], set(shapes[0].items()) ^ set(shapes[1].items())
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loaded)


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
        return x + MlpBlock(self.hidden)(nn.LayerNorm()(x)), None


class Encoder(nn.Module):
    depth: int
    heads: int
    hidden: int
    scan: bool

    @nn.compact
    def __call__(self, x):
        if self.scan:
            stack = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
            )
            x, _ = stack(self.heads, self.hidden, name="encoderblock")(x, None)
        else:
            for i in range(self.depth):
                x, _ = Block(self.heads, self.hidden, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(num_heads=self.heads)(probe, x)
        return (x + MlpBlock(self.hidden)(nn.LayerNorm()(x)))[:, 0]


class Image(nn.Module):
    config: Any
    scan: bool
    num_classes: int | None = None

    @nn.compact
    def __call__(self, image):
        c = self.config
        patch = (c.patch_size, c.patch_size)
        x = nn.Conv(c.width, patch, strides=patch, padding="VALID", name="embedding")(image)
        x = x.reshape(len(image), -1, c.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, x.shape[1], c.width))
        if c.pool == "class":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, c.width))
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = Encoder(c.depth, c.heads, c.mlp_width, self.scan, name="Transformer")(x)
        x = MAPHead(c.heads, c.mlp_width)(x) if c.pool == "map" else x[:, 0]
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


class Text(nn.Module):
    config: Any
    scan: bool
    num_classes: int

    @nn.compact
    def __call__(self, ids):
        c = self.config
        x = nn.Embed(c.vocab_size, c.width)(ids)
        x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        x = Encoder(c.depth, c.heads, c.mlp_width, self.scan)(x)
        return nn.Dense(self.num_classes, name="head")(x[:, -1])


class TwoTowers(nn.Module):
    """big_vision's two_towers for one of our configurations."""

    config: Any
    scan: bool

    @nn.compact
    def __call__(self, image, ids):
        c = self.config
        text = Text(c.text, self.scan, c.embed_dim, name="txt")(ids)
        head = c.embed_dim if c.vision.proj else None
        image = Image(c.vision, self.scan, head, name="img")(image)
        self.param("t", nn.initializers.zeros, (1,))
        if c.logit_bias:
            self.param("b", nn.initializers.zeros, (1,))
        unit = lambda z: z / (jnp.linalg.norm(z, axis=1, keepdims=True) + 1e-8)  # noqa: E731
        return unit(image), unit(text)


def run(config: Any, path: str, image: np.ndarray, ids: np.ndarray, *, scan: bool) -> Any:
    """Loads both towers, `t` and `b` one by one, as `two_towers.load` does, and runs them."""
    model = TwoTowers(config, scan)
    wanted = jax.eval_shape(model.init, jax.random.key(0), image, ids)["params"]
    params = {name: load_params(f"{path}:{name}") for name in wanted}
    params["img"] = to_layout(params["img"], "Transformer", scan)
    params = merge(params, wanted)
    with jax.default_matmul_precision("highest"):
        zimg, ztxt = jax.jit(model.apply)({"params": params}, image, ids)
    return {"image": zimg, "text": ztxt, "t": params["t"], "b": params.get("b")}
