"""The expected calibration error by its definition, bin by bin and example by example."""

import numpy as np


def plain_ece(confidence, correct, bins=15):
    """Return the error of n confidences in [0, 1] and outcomes, over bins of equal width that hold their upper ends."""
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = [(c, r) for c, r in zip(confidence.tolist(), correct.tolist(), strict=True)
                  if low < c <= high or (place == 0 and c == 0)]  # fmt: skip
        if inside:
            confidences, outcomes = zip(*inside, strict=True)
            total += len(inside) / len(confidence) * abs(np.mean(outcomes) - np.mean(confidences))
    return total
