"""Rigid transforms: points of one coordinate frame in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from fcclip_core.errors import DepthError


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """A rotation followed by a translation.

    Attributes:
        rotation: float64 `(3, 3)`, orthonormal; its columns are the old frame's axes in the new one.
        translation: float64 `(3,)`, the old frame's origin in the new one, meters.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def from_quaternion(cls, translation: Sequence[float], quaternion: Sequence[float]) -> RigidTransform:
        """The transform with a translation in meters and a quaternion `(x, y, z, w)`, which is normalized.

        Raises:
            DepthError: A number is not finite, or the quaternion is zero.
        """
        if not (np.isfinite([*translation, *quaternion]).all() and any(quaternion)):
            raise DepthError(
                f"the transform has the translation {list(translation)} and the quaternion {list(quaternion)}; "
                "expected finite numbers and a unit quaternion: check the node that broadcasts it"
            )
        return cls(Rotation.from_quat(quaternion).as_matrix(), np.array(translation, np.float64))

    def rotate(self, points: np.ndarray) -> np.ndarray:
        """Rotates points `(3, ...)` without translating them; keeps their float type."""
        # Not `@`: for a cloud, BLAS starts threads that cost more than the product, on a busy machine forty times more.
        turned: np.ndarray = np.einsum("ij,j...->i...", self.rotation.astype(points.dtype), points)
        return turned

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Transforms points `(3, ...)`; keeps their float type."""
        moved = self.rotate(points)
        moved += self.translation.astype(points.dtype).reshape(3, *[1] * (points.ndim - 1))
        return moved


def rigid_matrix(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """A rotation `(3, 3)` and a translation `(3,)` as float64 `(4, 4)`."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def interpolated(places: np.ndarray, turns: Rotation, share: float) -> np.ndarray:
    """A pose between two: linear for the translation, spherical for the rotation.

    Args:
        places: `(2, 3)`, their translations.
        turns: Their two rotations.
        share: 0 for the first one, 1 for the second.

    Returns:
        float64 `(4, 4)`.
    """
    turn = Slerp([0, 1], turns)(share)
    return rigid_matrix(turn.as_matrix(), (1 - share) * places[0] + share * places[1])
