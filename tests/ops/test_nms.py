import numpy as np

from openseg_jax.ops.nms import box_nms


def loop(boxes, scores, threshold):
    """The definition, pair by pair in float64."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        a = boxes[i]
        for j in kept:
            b = boxes[j]
            w = min(a[2], b[2]) - max(a[0], b[0])
            h = min(a[3], b[3]) - max(a[1], b[1])
            both = max(w, 0.0) * max(h, 0.0)
            either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
            if either > 0 and both / either > threshold:
                break
        else:
            kept.append(i)
    return kept


def test_against_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 60):
        low = rng.integers(0, 40, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(0, 40, (count, 2))], axis=1)
        # Whole scores tie, and the first of equal ones must win.
        for scores in (rng.permutation(count), rng.integers(0, 3, count)):
            # Between the fractions that such sides can make.
            for threshold in (0.30001, 0.70001, 1.0):
                got = box_nms(boxes, scores, threshold)
                assert got.tolist() == loop(boxes.astype(float), scores, threshold)


def test_the_threshold_is_strict_and_boxes_without_area_stay():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    scores = np.array([4, 3, 2, 1])
    assert box_nms(boxes, scores, 0.5).tolist() == [0, 1, 2, 3]
    assert box_nms(boxes, scores, 0.49).tolist() == [0, 2, 3]
