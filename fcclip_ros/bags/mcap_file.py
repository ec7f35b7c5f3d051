"""Tolerant reader of MCAP files: index and footer are optional, and damaged parts are skipped.

https://mcap.dev/spec. A file is a sequence of records; messages are in individually compressed chunks or outside of
chunks. A file that was closed properly ends with a summary, which lists the chunks. Without it, records are scanned.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from fcclip_core.errors import ImageError
from fcclip_ros.bags.bag_topics import MAX_BYTES, Say, Topic, unpack_zstd, zstd

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_FOOTER_LENGTH = 20
_CHUNK_COUNT = 22
"""Offset of the number of chunks in the statistics."""

_LOOSE_BYTES = 4 << 20
"""Consecutive messages outside of chunks are read together, up to this many bytes."""

_Message = tuple[int, int, bytes]
"""(time of recording in nanoseconds, channel, data)."""


@dataclass(frozen=True)
class _Block:
    """Messages that are read together.

    Attributes:
        start: Time of recording of the first message in nanoseconds.
        place: Offset of its first record in the file.
        length: Size in bytes.
        channels: Channels of its messages; empty if unknown.
    """

    start: int
    place: int
    length: int
    channels: frozenset[int] = frozenset()


class McapFile:
    """See `bag_topics.BagFile`."""

    def __init__(self, path: Path, say: Say) -> None:
        """Opens a file and reads its topics.

        Args:
            path: The file.
            say: Called about skipped data, also while the file is read.

        Raises:
            ImageError: It is not an MCAP file.
            OSError: It cannot be opened.
        """
        self.topics: dict[int, Topic] = {}
        self._name, self._say = path.name, say
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._blocks: list[_Block] = []
        self._chunks_expected = 0
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            if self._bytes(0, len(_MAGIC)) != _MAGIC:
                raise ImageError(f"{path.name} is not an MCAP file, or its beginning is damaged")
            if not self._read_summary():
                self.topics, self._schemas, self._blocks = {}, {}, []
                self._scan()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `BagFile.messages`."""
        wanted = frozenset(numbers)
        blocks = [block for block in self._blocks if not block.channels or block.channels & wanted]
        # A block is read when it is next; until then it is represented by the time of its first message.
        for time, channel, data in heapq.merge(*(self._ordered(block, wanted) for block in blocks), key=lambda m: m[0]):
            if channel >= 0:
                yield channel, time, data

    def _ordered(self, block: _Block, wanted: frozenset[int]) -> Iterator[_Message]:
        yield block.start, -1, b""
        yield from sorted(self._read(block, wanted), key=lambda message: message[0])

    # Index

    def _read_summary(self) -> bool:
        """Reads the summary; False if it is missing or incomplete."""
        end = self._size - len(_MAGIC)
        footer = end - _FOOTER_LENGTH - _RECORD.size
        if footer < len(_MAGIC) or self._bytes(end, len(_MAGIC)) != _MAGIC:
            return False
        if _RECORD.unpack(self._bytes(footer, _RECORD.size)) != (_FOOTER, _FOOTER_LENGTH):
            return False
        (start,) = struct.unpack("<Q", self._bytes(footer + _RECORD.size, 8))
        if not len(_MAGIC) < start < footer:
            return False
        try:
            for kind, content in _records(self._bytes(start, footer - start)):
                if kind == _CHUNK_INDEX:
                    self._blocks.append(_indexed(content))
                elif kind == _STATISTICS:
                    (self._chunks_expected,) = struct.unpack_from("<I", content, _CHUNK_COUNT)
                else:
                    self._define(kind, content)
        except (ValueError, struct.error, KeyError):
            return False
        complete = all(len(_MAGIC) <= block.place and block.place + block.length <= start for block in self._blocks)
        return complete and bool(self.topics) and len(self._blocks) == self._chunks_expected > 0

    def _scan(self) -> None:
        """Scans the records from the beginning, up to the first incomplete one."""
        place, loose = len(_MAGIC), None
        while True:
            if place + _RECORD.size > self._size:
                self._report_truncation(place)
                break
            kind, length = _RECORD.unpack(self._bytes(place, _RECORD.size))
            if kind in (_FOOTER, _DATA_END):
                break
            content, after = place + _RECORD.size, place + _RECORD.size + length
            if after > self._size or kind == 0:
                self._report_truncation(place)
                if kind == _CHUNK:
                    self._index_chunk(_Block(0, place, self._size - place))
                break
            if kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
                _, _, time, _ = _MESSAGE_HEAD.unpack(self._bytes(content, _MESSAGE_HEAD.size))
                if loose is not None and after - loose.place <= _LOOSE_BYTES:
                    loose = replace(loose, start=min(loose.start, time), length=after - loose.place)
                    self._blocks[-1] = loose
                else:
                    loose = _Block(time, place, after - place)
                    self._blocks.append(loose)
            elif kind == _CHUNK:
                loose = None
                self._index_chunk(_Block(0, place, after - place))
            elif kind in (_SCHEMA, _CHANNEL):
                try:
                    self._define(kind, self._bytes(content, length))
                except (ValueError, struct.error, KeyError) as error:
                    self._say(f"{self._name}: the definition of a topic at byte {place} is damaged ({error})")
            place = after

    def _report_truncation(self, place: int) -> None:
        self._say(
            f"{self._name} was not closed by its recorder, or is truncated or damaged: the data before byte {place} of "
            f"{self._size} is read; use `mcap recover` to repair it"
        )

    def _index_chunk(self, block: _Block) -> None:
        """Indexes a chunk that is not in the summary, and the topics that it defines."""
        start, channels = 0, set()
        try:
            start, content, _ = self._unpacked(block)
            for kind, record in _records(content):
                if kind == _MESSAGE:
                    channels.add(_MESSAGE_HEAD.unpack_from(record)[0])
                else:
                    self._define(kind, record)
        except Exception:  # reported when it is read
            channels = set()
        self._blocks.append(replace(block, start=start, channels=frozenset(channels)))

    def _define(self, kind: int, content: bytes | memoryview) -> None:
        """Reads a schema or a channel; other records are ignored."""
        if kind == _SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, place = _text(content, 2)
            language, place = _text(content, place)
            self._schemas[number] = name, language, _text(content, place)[0]
        elif kind == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            name, place = _text(content, 4)
            encoding, place = _text(content, place)
            about, end = {}, place + 4 + struct.unpack_from("<I", content, place)[0]
            place += 4
            while place < end:
                key, place = _text(content, place)
                about[key], place = _text(content, place)
            kind_of, language, definition = self._schemas[schema] if schema else ("", "", "")
            language = "ros2idl" if language == "omgidl" else language
            digest, qos = about.get("topic_type_hash", ""), about.get("offered_qos_profiles", "")
            self.topics[number] = Topic(name, kind_of, encoding, definition, language, digest, qos)

    # Reading

    def _read(self, block: _Block, wanted: frozenset[int]) -> list[_Message]:
        """The messages of a block, up to the first damaged one."""
        found: list[_Message] = []
        try:
            _, content, is_good = self._unpacked(block)
            for kind, record in _records(content):
                if kind == _MESSAGE:
                    channel, _, time, _ = _MESSAGE_HEAD.unpack_from(record)
                    if channel in wanted:
                        found.append((time, channel, bytes(record[_MESSAGE_HEAD.size :])))
            if not is_good:
                self._report_damage(block, f"{len(found)} messages are skipped (wrong checksum)")
                return []
        except Exception as error:  # decompressors raise many types
            self._report_damage(block, f"messages in it are skipped ({error})")
        return found

    def _report_damage(self, block: _Block, what: str) -> None:
        self._say(f"{self._name} is damaged between bytes {block.place} and {block.place + block.length}: {what}")

    def _unpacked(self, block: _Block) -> tuple[int, memoryview, bool]:
        """The start time of a block, its records, and whether its checksum matches.

        Raises:
            ValueError: It cannot be decompressed.
            struct.error: It is truncated.
        """
        raw = self._bytes(block.place, block.length)
        if raw[:1] != bytes([_CHUNK]):
            return block.start, memoryview(raw), True
        start, _, size, checksum = _CHUNK_HEAD.unpack_from(raw, _RECORD.size)
        compression, place = _text(raw, _RECORD.size + _CHUNK_HEAD.size)
        (packed,) = struct.unpack_from("<Q", raw, place)
        content = raw[place + 8 : place + 8 + packed]
        if size > MAX_BYTES:
            raise ValueError(f"the size of a chunk is {size} bytes, more than {MAX_BYTES}")
        if len(content) < packed:
            # At the end of a truncated file; the messages before the end are intact.
            return start, memoryview(_unpack_truncated(content, compression, size)), True
        if compression == "zstd":
            content = unpack_zstd(content, size)
        elif compression == "lz4":
            content = _unpack_lz4(content, size)
        elif compression:
            raise ValueError(f"the compression {compression[:20]!r} is not supported; expected zstd or lz4")
        if len(content) != size:
            raise ValueError(f"it has {len(content)} of {size} bytes")
        return start, memoryview(content), not checksum or crc32(content) == checksum

    def _bytes(self, place: int, length: int) -> bytes:
        self._file.seek(place)
        # The length of a record may exceed the file.
        return self._file.read(min(length, max(self._size - place, 0)))


def _records(content: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Iterates over records.

    Raises:
        ValueError: A record is truncated.
    """
    view, place = memoryview(content), 0
    while place < len(view):
        if place + _RECORD.size > len(view):
            raise ValueError("a record is truncated")
        kind, length = _RECORD.unpack_from(view, place)
        place += _RECORD.size
        if place + length > len(view):
            raise ValueError("a record is truncated")
        yield kind, view[place : place + length]
        place += length


def _indexed(content: memoryview) -> _Block:
    start, _, place, length = struct.unpack_from("<QQQQ", content)
    (size,) = struct.unpack_from("<I", content, 32)
    channels = frozenset(channel for channel, _ in struct.iter_unpack("<HQ", content[36 : 36 + size]))
    return _Block(start, place, length, channels)


def _text(content: bytes | memoryview, place: int) -> tuple[str, int]:
    """A length-prefixed string, and the offset after it."""
    (length,) = struct.unpack_from("<I", content, place)
    end = place + 4 + length
    if end > len(content):
        raise ValueError("a string is truncated")
    return bytes(content[place + 4 : end]).decode(), end


def _unpack_truncated(content: bytes, compression: str, max_bytes: int) -> bytes:
    """Decompresses the available part of a truncated chunk."""
    if compression == "zstd":
        return zstd().ZstdDecompressor().decompress(content, max_length=max_bytes)
    return _unpack_lz4(content, max_bytes) if compression == "lz4" else content


def _unpack_lz4(content: bytes, max_bytes: int) -> bytes:
    import lz4.frame

    try:
        return lz4.frame.LZ4FrameDecompressor().decompress(content, max_length=max_bytes)
    except (RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error
