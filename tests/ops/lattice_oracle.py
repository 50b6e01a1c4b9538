"""An independent permutohedral filter and mean field: float64, one point and one vertex at a time.

Written from Adams et al. (2010): an explicit basis, the nearest remainder-0 point by moving the
coordinates with the largest error, barycentric weights from sorted differences, and a dictionary
of full keys. It shares no code and no table layout with the library.
"""

from collections import defaultdict

import numpy as np


def basis(d):
    """Columns span the plane of zero sum, scaled so that d+1 blurs have unit variance."""
    columns = []
    for i in range(1, d + 1):
        column = np.zeros(d + 1)
        column[:i], column[i] = 1, -i
        columns.append(column / np.sqrt(i * (i + 1)))
    return np.stack(columns, axis=1) * np.sqrt(2 / 3) * (d + 1)


def corners(point):
    """Yields (key, weight) of the simplex around a lifted point."""
    d = len(point) - 1
    base = np.round(point / (d + 1)) * (d + 1)
    error = point - base
    excess = round(base.sum() / (d + 1))
    # Ties matter: a vertex of weight 0 still exists, and carries values in a blur. Of equal errors
    # the earlier coordinate counts as the larger.
    order = np.argsort(-error, kind="stable")
    if excess > 0:
        base[order[-excess:]] -= d + 1
    elif excess < 0:
        base[order[:-excess]] += d + 1
    order = np.roll(order, excess)
    error = point - base
    ranked = error[order] / (d + 1)
    weights = [1 - ranked[0] + ranked[-1]] + [
        ranked[d - r] - ranked[d - r + 1] for r in range(1, d + 1)
    ]
    for r in range(d + 1):
        key = base + r
        key[order[d + 1 - r :]] -= d + 1
        yield tuple(int(k) for k in key), weights[r]


def lattice_filter(features, values, axes=None):
    """Filters float64[n C] over features float64[n d]; `axes` is the order of the blurs."""
    d = features.shape[1]
    lifted = features.astype(np.float64) @ basis(d).T
    simplices = [list(corners(p)) for p in lifted]
    table = defaultdict(float)
    for simplex, value in zip(simplices, values.astype(np.float64), strict=True):
        for key, weight in simplex:
            table[key] = table[key] + weight * value
    for axis in range(d + 1) if axes is None else axes:
        blurred = {}
        for key, value in table.items():
            up = tuple(k + 1 - (d + 1) * (i == axis) for i, k in enumerate(key))
            down = tuple(k - 1 + (d + 1) * (i == axis) for i, k in enumerate(key))
            blurred[key] = value + 0.5 * (table.get(up, 0) + table.get(down, 0))
        table = blurred
    out = [sum(weight * table[key] for key, weight in simplex) for simplex in simplices]
    return np.array(out) / (1 + 2.0**-d)


def mean_field(colours, probs, iterations=10, sigmas=(1, 67, 3), weights=(3, 4)):
    """Dense CRF marginals [labels H W] in float64 for a small image as the kernel sees it."""
    labels, height, width = probs.shape
    y, x = (a.ravel().astype(np.float64) for a in np.indices((height, width)))
    colour = colours.reshape(-1, 3).astype(np.float64)
    near = np.stack([x, y], axis=1) / sigmas[0]
    far = np.concatenate([np.stack([x, y], axis=1) / sigmas[1], colour / sigmas[2]], axis=1)
    logits = np.log(np.clip(probs.reshape(labels, -1).T.astype(np.float64), 1e-5, 1))

    def softmax(z):
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return z / z.sum(axis=1, keepdims=True)

    norms = [lattice_filter(f, np.ones((len(f), 1))) ** -0.5 for f in (near, far)]
    q = softmax(logits)
    for _ in range(iterations):
        total = logits
        for feature, norm, weight in zip((near, far), norms, weights, strict=True):
            total = total + weight * norm * lattice_filter(feature, norm * q)
        q = softmax(total)
    return q.T.reshape(probs.shape)
