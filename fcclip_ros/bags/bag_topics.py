"""What the files of a bag have in common, however they are written."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Say = Callable[[str], None]
"""Gets what was left out, and why: a sentence for people."""

MOST_BYTES = 1 << 30
"""Bytes that a compressed block or message may become; a file may claim any number."""

_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: Its name.
        kind: Type of its messages, such as sensor_msgs/msg/Image.
        encoding: Of the messages; ROS 2's is "cdr".
        definition: Of the type, as the recorder wrote it; empty if it did not.
        language: Of the definition, "ros2msg" or "ros2idl".
        digest: Hash of the type; empty where it was not recorded.
        qos: The offered qualities of service, as YAML; may be empty.
    """

    name: str
    kind: str
    encoding: str = "cdr"
    definition: str = ""
    language: str = ""
    digest: str = ""
    qos: str = ""


class BagFile(Protocol):
    """One file of a bag.

    Attributes:
        topics: By their numbers in this file.
    """

    topics: dict[int, Topic]

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Goes through messages of some topics in the order of their recording.

        Yields:
            The topic's number, when it was recorded (nanoseconds), the bytes.
        """
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def unpacked(data: bytes) -> bytes:
    """A message as it was before a recorder compressed it; one that is not compressed as it is.

    Raises:
        ValueError: It is damaged, or would be too large.
    """
    # No message in CDR begins like this: its first byte is 0.
    return unpack_zstd(data, MOST_BYTES) if data[:4] == _ZSTD else data


def unpack_zstd(data: bytes, most: int) -> bytes:
    """Decompresses one frame.

    Raises:
        ValueError: It is damaged or cut, or would be larger than `most` bytes.
    """
    library = zstd()
    unpacker = library.ZstdDecompressor()
    try:
        whole = unpacker.decompress(data, max_length=most)
    except library.ZstdError as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError(f"compressed data is cut, or larger than {most} bytes")
    return whole


def zstd() -> Any:
    """The module of that name, which Python has had since 3.14; needed for compressed bags alone."""
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd")
    from backports import zstd as library

    return library
