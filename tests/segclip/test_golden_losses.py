"""SegCLIP golden: superpixel KL, the contrast over two ranks, masking, patches and positions."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from openseg_jax.models.clip import normalize
from openseg_jax.ops.losses import softmax_contrastive
from openseg_jax.ops.masked_patches import mask_patches, patchify, sincos_positions
from openseg_jax.ops.segclip_losses import superpixel_kl, superpixel_means
from tests import golden
from tests.segclip.models import close, error, last, load, quick_jit

CASE = pytest.mark.parametrize("path", golden.cases("segclip", "losses"), ids=lambda p: p.stem)


def kinds(arrays, pattern):
    """Lists what stands where the pattern has its group, over the names of a case."""
    found = (re.fullmatch(pattern, name) for name in arrays)
    return sorted({match.group(1) for match in found if match})


@CASE
def test_segclip_golden_superpixel_kl(path):
    a, _ = load(path)
    ids = a["in/kl/image_seg"].reshape(a["in/kl/image_seg"].shape[0], -1)
    run = quick_jit(jax.value_and_grad(superpixel_kl))
    names = kinds(a, r"out/kl/(\w+)_loss")
    assert names
    for name in names:
        given = a[f"in/kl/{name}"]
        value, grad = run(given, ids)
        close(value, a[f"out/kl/{name}_loss"])
        close(grad, a[f"out/kl/{name}_grad"])
        close(superpixel_means(given, ids), a[f"out/kl/{name}_cluster_mean"])

        # Stopping the gradient of the mean would be seen.
        def stopped(h, ids=ids):
            p = jax.nn.log_softmax(h.swapaxes(1, 2), axis=-1)
            q = jax.lax.stop_gradient(jax.nn.log_softmax(superpixel_means(h, ids), axis=-1))
            return 0.5 * ((jax.numpy.exp(q) - jax.numpy.exp(p)) * (q - p)).mean()

        assert error(quick_jit(jax.grad(stopped))(given), a[f"out/kl/{name}_grad"]) > 1e-2


@CASE
def test_segclip_golden_superpixel_kl_is_bounded(path):
    a, _ = load(path)
    groups = a["in/kl/hard"].shape[1]
    # Every patch alone against a mean that hardly holds it: the worst case of zeros and ones.
    p, q = np.e / (np.e + groups - 1), 1 / (np.e + groups - 1)
    assert 0 < float(a["out/kl/hard_loss"]) < 2 * (p - q) / groups


_TWO_DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from openseg_jax.models.clip import normalize
from openseg_jax.ops.losses import softmax_contrastive

given = np.load(sys.argv[1])
ranks = int(sys.argv[2])
devices = jax.devices()[:ranks]
assert len(devices) == ranks
mesh = jax.make_mesh((ranks,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
rows = NamedSharding(mesh, PartitionSpec("data"))
put = lambda x: jax.device_put(np.asarray(x, np.float32), rows)
image, text = put(given["in/con/visual"]), put(given["in/con/text"])
positive = np.eye(len(image), dtype=bool)
run = jax.jit(lambda i, t, s: softmax_contrastive(normalize(i), normalize(t), s, positive))
print(json.dumps([float(run(image, text, np.float32(s))) for s in json.loads(sys.argv[3])]))
"""


@CASE
def test_segclip_golden_contrast_on_two_devices(path):
    """What the reference's ranks compute on average is one loss over the sharded batch."""
    a, _ = load(path)
    names = kinds(a, r"out/con/(logit_scale_[\d.]+)/mean")
    assert names
    scales = [min(np.exp(float(name.removeprefix("logit_scale_"))), 100.0) for name in names]
    ranks = len(a[f"out/con/{names[0]}/rank_losses"])
    flags = f"--xla_force_host_platform_device_count={ranks}"
    done = subprocess.run(
        [sys.executable, "-c", _TWO_DEVICES, str(path), str(ranks), json.dumps(scales)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    image, text = normalize(a["in/con/visual"]), normalize(a["in/con/text"])
    for name, scale, got in zip(names, scales, json.loads(done.stdout), strict=True):
        want = a[f"out/con/{name}/mean"]
        close(np.float32(got), want)
        close(np.mean(a[f"out/con/{name}/rank_losses"]), want)
        # Each device contrasting its own half alone is another, smaller loss.
        half = len(image) // ranks
        own = [
            softmax_contrastive(image[r : r + half], text[r : r + half], scale, np.eye(half) > 0)
            for r in range(0, len(image), half)
        ]
        assert abs(np.mean(own) - want) > 1e-2


@CASE
def test_segclip_golden_masking(path):
    a, _ = load(path)
    ratios = kinds(a, r"out/mask/r([\d.]+)/mask")
    assert ratios
    for ratio in ratios:
        want = {k.rsplit("/", 1)[1]: v for k, v in a.items() if f"out/mask/r{ratio}/" in k}
        got = mask_patches(a["in/mask/noise"][:, 1:], float(ratio))
        np.testing.assert_array_equal(np.asarray(got.kept) + 1, want["keep_ids"][:, 1:])
        np.testing.assert_array_equal(np.asarray(got.restore) + 1, want["ids_restore"][:, 1:])
        hidden = np.take_along_axis(want["mask"][:, 1:], np.asarray(got.hidden), axis=1)
        assert hidden.all() and want["mask"].sum() == hidden.size


@CASE
def test_segclip_golden_patches_and_positions(path):
    a, _ = load(path)
    for side in kinds(a, r"out/patchify/p(\d+)"):
        got = patchify(last(a["in/patchify/image"]), int(side))
        np.testing.assert_array_equal(got, a[f"out/patchify/p{side}"])
    for name in kinds(a, r"out/sincos/(.+)"):
        width, grid = (int(x[1:]) for x in name.split("_"))
        want = a[f"out/sincos/{name}"]
        close(sincos_positions(width, (grid, grid)), want[1:], 1e-6)
        assert (want[0] == 0).all()
        # Rows and columns the other way round would fail.
        turned = sincos_positions(width, (grid, grid)).reshape(grid, grid, width).swapaxes(0, 1)
        assert error(turned.reshape(-1, width), want[1:]) > 1e-2
