"""How a map moved: transforms of the whole frame, and changes of the path along which things were seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from fcclip_core.errors import ObservationError
from fcclip_core.memory.objects import RememberedObject, View


class Path:
    """Poses over time, as SLAM publishes them.

    Attributes:
        stamps: int64 `(N,)`, nanoseconds, growing.
        poses: float64 `(N, 4, 4)`, to the map.
    """

    def __init__(self, stamps: np.ndarray, poses: np.ndarray) -> None:
        """Sorts by time; of equal stamps the last one counts.

        Raises:
            ObservationError: Shapes do not fit, or a pose is not rigid.
        """
        stamps, poses = np.asarray(stamps, np.int64), np.asarray(poses, np.float64)
        if stamps.ndim != 1 or not len(stamps) or poses.shape != (len(stamps), 4, 4):
            raise ObservationError(
                f"the path has stamps of shape {stamps.shape} and poses of shape {poses.shape}; expected (N,) and "
                "(N, 4, 4)"
            )
        turns = poses[:, :3, :3]
        if not np.isfinite(poses).all() or not np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-3):
            raise ObservationError("a pose of the path is not a rotation and a translation; normalize its quaternion")
        # From the back, so that unique keeps the last of equal stamps.
        self.stamps, last = np.unique(stamps[::-1], return_index=True)
        self.poses = poses[::-1][last]

    def at(self, stamps: np.ndarray) -> np.ndarray:
        """Poses `(M, 4, 4)` at times `(M,)`; before the path its first pose, after it its last."""
        if len(self.stamps) == 1:
            return np.repeat(self.poses, len(stamps), axis=0)
        # Seconds from the start: nanoseconds since 1970 do not fit float64.
        times = (self.stamps - self.stamps[0]) / 1e9
        wanted = np.clip((np.clip(stamps, self.stamps[0], self.stamps[-1]) - self.stamps[0]) / 1e9, 0, times[-1])
        poses = np.tile(np.eye(4), (len(wanted), 1, 1))
        poses[:, :3, :3] = Slerp(times, Rotation.from_matrix(self.poses[:, :3, :3]))(wanted).as_matrix()
        for axis in range(3):
            poses[:, axis, 3] = np.interp(wanted, times, self.poses[:, axis, 3])
        return poses

    def change_to(self, new: Path, stamps: np.ndarray) -> np.ndarray:
        """What moved places that were seen at these times: `(M, 4, 4)`, from the old map to the new one."""
        return new.at(stamps) @ np.linalg.inv(self.at(stamps))


def transformed(item: RememberedObject, transform: np.ndarray) -> RememberedObject:
    """An object in a map that was moved by a rigid transform `(4, 4)`; its box stays aligned with the map's axes."""
    turn, offset = transform[:3, :3], transform[:3, 3]
    center, half = turn @ item.center + offset, np.abs(turn) @ (item.extents / 2)
    covariance = turn @ item.covariance @ turn.T
    return replace(
        item,
        position=turn @ item.position + offset,
        covariance=(covariance + covariance.T) / 2,
        low=center - half,
        high=center + half,
        views=tuple(_transformed_view(view, transform) for view in item.views),
        approach=_transformed_view(item.approach, transform) if item.approach else None,
    )


def _transformed_view(view: View, transform: np.ndarray) -> View:
    return replace(view, map_from_camera=transform @ view.map_from_camera)
