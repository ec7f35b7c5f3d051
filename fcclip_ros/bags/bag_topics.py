"""Common interface of the storage formats of bags."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Say = Callable[[str], None]
"""Called with a human-readable message about data that is skipped."""

MAX_BYTES = 1 << 30
"""Maximum size of a decompressed chunk or message in bytes; the size in a file is not trusted."""

_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: Its name.
        kind: Message type, such as sensor_msgs/msg/Image.
        encoding: Serialization format; "cdr" for ROS 2.
        definition: Recorded definition of the type; may be empty.
        language: Language of the definition, "ros2msg" or "ros2idl".
        digest: Hash of the type; may be empty.
        qos: Offered QoS profiles as YAML; may be empty.
    """

    name: str
    kind: str
    encoding: str = "cdr"
    definition: str = ""
    language: str = ""
    digest: str = ""
    qos: str = ""


class BagFile(Protocol):
    """A file of a bag.

    Attributes:
        topics: Topics by their ids in this file.
    """

    topics: dict[int, Topic]

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Iterates over the messages of some topics in the order of recording.

        Yields:
            (topic id, time of recording in nanoseconds, data).
        """
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def unpacked(data: bytes) -> bytes:
    """Decompresses the data of a message, if it is compressed.

    Raises:
        ValueError: It is damaged or too large.
    """
    # CDR data cannot begin like this: its first byte is 0.
    return unpack_zstd(data, MAX_BYTES) if data[:4] == _ZSTD else data


def unpack_zstd(data: bytes, max_bytes: int) -> bytes:
    """Decompresses a zstd frame.

    Raises:
        ValueError: It is damaged, truncated, or larger than `max_bytes`.
    """
    library = zstd()
    unpacker = library.ZstdDecompressor()
    try:
        content = unpacker.decompress(data, max_length=max_bytes)
    except library.ZstdError as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError(f"compressed data is truncated, or larger than {max_bytes} bytes")
    return content


def zstd() -> Any:
    """The zstd module, part of Python since 3.14; only needed for compressed bags."""
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd")
    from backports import zstd as library

    return library
