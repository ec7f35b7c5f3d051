"""Where frames were in each other over a recording: a tree of transforms over time, with tf2's rules.

A transform between two stamps is interpolated, linearly and by slerp. Outside of them, and beside a single one, nothing
is known; static transforms hold at any time. Unlike tf2's buffer, which keeps ten seconds, everything is kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.errors import DepthError
from fcclip_core.geometry.transform import interpolated, rigid_matrix
from fcclip_core.quoting import short_name

_LISTED = 20


class TransformTree:
    """A tree of coordinate frames, each with its transform to its parent over time."""

    def __init__(self) -> None:
        """Starts without frames."""
        self._links: dict[str, _Link] = {}

    @property
    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(self._links.keys() | {name for link in self._links.values() for name in link.parents})

    def add(
        self,
        parent: str,
        child: str,
        stamp: int,
        translation: Sequence[float],
        quaternion: Sequence[float],
        *,
        static: bool = False,
    ) -> None:
        """Adds where a frame was in another; of equal stamps the last one counts.

        Args:
            parent: The other frame; a leading slash does not count.
            child: The frame.
            stamp: Nanoseconds; ignored if it is static.
            translation: The child's origin in the parent, meters.
            quaternion: The child's orientation in the parent, `(x, y, z, w)`; it is normalized.
            static: It holds at any time; an earlier static one is replaced.

        Raises:
            DepthError: A number is not finite, the quaternion is zero, or a frame is its own parent.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not (np.isfinite([*translation, *quaternion]).all() and any(quaternion)) or parent == child:
            raise DepthError(
                f"the transform from {short_name(child)!r} to {short_name(parent)!r} is none: the translation is "
                f"{list(translation)}, the quaternion {list(quaternion)}; check the node that broadcasts it"
            )
        link = self._links.get(child)
        if link is None or link.static != static or static:
            link = self._links[child] = _Link(child, static)
        link.add(parent, stamp, translation, quaternion)

    def find(self, target: str, source: str, stamp: int) -> np.ndarray:
        """The transform from one frame to another at a time.

        Args:
            target: The frame to transform to.
            source: The frame to transform from.
            stamp: Nanoseconds.

        Returns:
            float64 `(4, 4)`: takes points in `source` to `target`.

        Raises:
            DepthError: A frame is not known, they are not connected, or a transform is not known at that time.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        self.require(target)
        self.require(source)
        above = self._chain(target, stamp)
        common = next((name for name in self._chain(source, stamp) if name in above), None)
        if common is None:
            raise DepthError(f"the frames {short_name(target)!r} and {short_name(source)!r} are not connected")
        # What is above both need not be known at that time.
        found: np.ndarray = np.linalg.inv(self._up_to(common, target, stamp)) @ self._up_to(common, source, stamp)
        return found

    def require(self, name: str) -> None:
        """Checks that there is a frame.

        Raises:
            DepthError: There is none; lists those that there are.
        """
        frames = self.frames
        if name.lstrip("/") not in frames:
            more = f" and {len(frames) - _LISTED} more" if len(frames) > _LISTED else ""
            listed = ", ".join(map(short_name, frames[:_LISTED])) or "none"
            raise DepthError(f"there is no frame {short_name(name)!r}; the frames are: {listed}{more}")

    def _chain(self, name: str, stamp: int) -> list[str]:
        """The frame and those above it at that time; ends where a frame would come again."""
        chain = [name]
        while (link := self._links.get(chain[-1])) is not None and (parent := link.parent(stamp)) not in chain:
            chain.append(parent)
        return chain

    def _up_to(self, ancestor: str, name: str, stamp: int) -> np.ndarray:
        """Takes points in a frame to one above it."""
        matrix = np.eye(4)
        while name != ancestor:
            link = self._links[name]
            matrix, name = link.at(stamp) @ matrix, link.parent(stamp)
        return matrix


class _Link:
    """A frame in its parent over time; numbers in flat arrays, since a long recording has millions."""

    def __init__(self, child: str, static: bool) -> None:
        self.static = static
        self.parents: list[str] = []
        self._child = child
        self._stamps = array("q")
        self._numbers = array("d")
        self._parent_of = array("H")
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, parent: str, stamp: int, translation: Sequence[float], quaternion: Sequence[float]) -> None:
        """Adds where the frame was."""
        if parent not in self.parents:
            self.parents.append(parent)
        self._stamps.append(stamp)
        self._numbers.extend([*translation, *quaternion])
        self._parent_of.append(self.parents.index(parent))
        self._sorted = None

    def parent(self, stamp: int) -> str:
        """The parent at that time, that of the stamp before it; before the first one, that of the first one."""
        stamps, _, parents = self._in_order()
        return self.parents[parents[max(int(np.searchsorted(stamps, stamp, "right")) - 1, 0)]]

    def at(self, stamp: int) -> np.ndarray:
        """float64 `(4, 4)`: takes the frame's points to its parent at that time."""
        stamps, numbers, parents = self._in_order()
        if self.static:
            return _pose(numbers[0])
        if not stamps[0] <= stamp <= stamps[-1]:
            known = f"from {stamps[0] / 1e9:.3f} to {stamps[-1] / 1e9:.3f} s" if len(stamps) > 1 else "once"
            raise DepthError(
                f"the frame {short_name(self._child)!r} is known in {short_name(self.parent(stamp))!r} {known}, not at "
                f"{stamp / 1e9:.3f} s"
            )
        last = int(np.searchsorted(stamps, stamp, "right")) - 1
        one, two = numbers[last], numbers[min(last + 1, len(numbers) - 1)]
        # Between two parents there is nothing to interpolate.
        if stamps[last] == stamp or parents[last] != parents[last + 1]:
            return _pose(one)
        share = float(stamp - stamps[last]) / float(stamps[last + 1] - stamps[last])
        return interpolated(np.stack([one[:3], two[:3]]), Rotation.from_quat([one[3:], two[3:]]), share)

    def _in_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stamps, numbers and parents, sorted; of equal stamps the last one is kept."""
        if self._sorted is None:
            stamps = np.array(self._stamps, np.int64)
            order = np.argsort(stamps, kind="stable")
            order = order[np.append(np.diff(stamps[order]) > 0, True)]
            numbers, parents = np.array(self._numbers).reshape(-1, 7), np.array(self._parent_of)
            self._sorted = stamps[order], numbers[order], parents[order]
        return self._sorted


def _pose(numbers: np.ndarray) -> np.ndarray:
    return rigid_matrix(Rotation.from_quat(numbers[3:]).as_matrix(), numbers[:3])
