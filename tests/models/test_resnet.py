import functools

import jax
import numpy as np
import pytest

from openseg_jax.models.resnet import ResNet, ResNetConfig
from openseg_jax.weights.tree import flatten, unflatten

TORCH = "torch is not installed: pip install -e '.[parity]'"
DEEPLAB = ResNetConfig((2, 1, 1, 3), (8, 12, 16, 20), stem_width=8)
BASIC = ResNetConfig((1, 1, 2, 1), (8, 12, 16, 20), "basic", 8, dilations=(1,), stride_in_3x3=False)


@functools.cache
def draw(config: ResNetConfig):
    """Returns an image of odd sizes and random parameters, statistics included."""
    r = np.random.default_rng(0)
    image = r.normal(size=(1, 70, 45, 3)).astype(np.float32)
    spec = jax.eval_shape(lambda: ResNet(config).init(jax.random.key(0), image)["params"])

    def one(name, shape):
        x = r.normal(size=shape)
        if name.endswith("kernel"):
            x = x * (2 / np.prod(shape[:3])) ** 0.5
        return (abs(x) + 0.5 if name.endswith(("var", "scale")) else x).astype(np.float32)

    return image, {name: one(name, leaf.shape) for name, leaf in flatten(spec).items()}


def oracle(config: ResNetConfig, image, flat):
    """Runs the network as detection libraries spell it, in torch's functions."""
    torch = pytest.importorskip("torch", reason=TORCH)
    f = torch.nn.functional

    def conv(x, name, stride=1, dilation=1):
        kernel = torch.from_numpy(flat[f"{name}/conv/kernel"].transpose(3, 2, 0, 1).copy())
        size = kernel.shape[-1]
        x = f.conv2d(x, kernel, None, stride, dilation * (size // 2), dilation)
        m, v, s, b = (torch.from_numpy(flat[f"{name}/norm/{k}"]) for k in ("mean", "var", "scale", "bias"))  # noqa: E501  # fmt: skip
        return f.batch_norm(x, m, v, s, b, eps=config.eps)

    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    strides = (2, 1, 1) if config.stem == "deeplab" else (2,)
    for i, stride in enumerate(strides):
        x = f.relu(conv(x, f"stem_conv{i + 1}", stride))
    x = f.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage, depth in enumerate(config.depths):
        for i in range(depth):
            here, stride = f"res{stage + 2}_{i}", 2 if stage and i == 0 else 1
            dilation = config.dilations[i] if stage == 3 else 1
            s1, s2 = (1, stride) if config.stride_in_3x3 else (stride, 1)
            y = f.relu(conv(x, f"{here}/conv1", s1))
            y = f.relu(conv(y, f"{here}/conv2", s2, dilation))
            y = conv(y, f"{here}/conv3")
            if f"{here}/shortcut/conv/kernel" in flat:
                x = conv(x, f"{here}/shortcut", stride)
            x = f.relu(x + y)
        maps.append(x.numpy().transpose(0, 2, 3, 1))
    return maps


@pytest.mark.parametrize("config", [DEEPLAB, BASIC], ids=lambda c: c.stem)
def test_maps_are_torch_s(config):
    image, flat = draw(config)
    got = jax.jit(ResNet(config).apply)({"params": unflatten(flat)}, image)
    for x, want in zip(got, oracle(config, image, flat), strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-4 * float(want.std()))


def test_the_comparison_can_fail():
    image, flat = draw(DEEPLAB)
    wrong = ResNetConfig((2, 1, 1, 3), (8, 12, 16, 20), stem_width=8, dilations=(1, 1, 1))
    got = jax.jit(ResNet(wrong).apply)({"params": unflatten(flat)}, image)
    want = oracle(DEEPLAB, image, flat)
    assert np.abs(got[-1] - want[-1]).max() > 0.01 * want[-1].std()
