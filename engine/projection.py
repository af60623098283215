"""Vectors on a plane, for people to look at: principal component analysis (Pearson, 1901).

The plane is spanned by the two directions in which the vectors differ most; NumPy's symmetric
eigenvalue solver finds them, in the smaller of the spaces of dimensions and of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PLANE = 2


def principal_plane(
    vectors: NDArray[np.float32],
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Each vector's place on the plane, and which share of the variance each direction holds.

    Args:
        vectors: float32, shape (n, d), finite.

    Returns:
        float64, shape (n, 2), zeros in a direction that there isn't; two shares, 0 where the
        vectors don't differ. The same vectors give the same plane: of each direction, the sign is
        chosen so that the place farthest from 0 is positive.
    """
    points = np.zeros((len(vectors), PLANE))
    if not vectors.size:
        return points, (0.0, 0.0)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    scale = float(np.abs(centred).max()) or 1.0
    centred /= scale  # squares of large numbers stay finite
    rows, dimensions = centred.shape
    small = centred @ centred.T if rows < dimensions else centred.T @ centred
    values, directions = np.linalg.eigh(small)
    total = float(np.trace(small))
    shares = [0.0, 0.0]
    for place in range(min(PLANE, len(values))):
        value, direction = max(float(values[-1 - place]), 0.0), directions[:, -1 - place]
        if value <= 1e-12 * total:
            continue
        along = direction * np.sqrt(value) if rows < dimensions else centred @ direction
        sign = np.sign(along[np.argmax(np.abs(along))]) or 1.0
        points[:, place] = along * sign * scale
        shares[place] = value / total
    return points, (shares[0], shares[1])
