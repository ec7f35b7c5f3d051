"""Tolerant reader of bags: missing and damaged parts are skipped."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcclip_core.errors import ImageError, YamlError
from fcclip_core.files.bag_paths import METADATA, files_in, is_bag_file, is_packed, storage_suffix
from fcclip_core.files.regular_files import read_regular_file
from fcclip_core.files.yaml_text import read_yaml
from fcclip_core.quoting import first_line, short_name
from fcclip_ros.bags.bag_topics import BagFile, Say, Topic, unpacked, zstd
from fcclip_ros.bags.mcap_file import McapFile
from fcclip_ros.bags.sqlite3_file import Sqlite3File
from fcclip_ros.compat import optional_module

_METADATA_BYTES = 16 << 20
"""Maximum size of metadata.yaml; a larger one is ignored, since the files contain the same information."""

_BUFFER = 1 << 20


class BagReader:
    """Reads a bag in a `with` block; unreadable parts are reported and skipped.

    Attributes:
        path: The bag.
        topics: Topics by name.
    """

    def __init__(self, path: Path, say: Say) -> None:
        """Opens nothing before the `with` block.

        Args:
            path: A bag folder, or a file of one.
            say: Called about skipped data, also while the bag is read; once per message.
        """
        self.path = path
        self.topics: dict[str, Topic] = {}
        self._reported: set[str] = set()
        self._tell = say
        self._files: list[BagFile] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BagReader:
        """Opens the bag.

        Raises:
            ImageError: None of its files can be read.
        """
        errors: list[str] = []
        with self._stack:
            metadata, paths = self._list_files()
            for path in paths:
                try:
                    self._files.append(self._open(path))
                except (ImageError, OSError) as error:
                    errors.append(_reason(path, error))
            if not self._files:
                reason = "; ".join(errors) or "it has no .mcap or .db3 file"
                raise ImageError(f"{self.path} is not a readable ROS 2 bag: {reason}")
            for text in errors:
                self._say(f"{text}; it is skipped")
            self._merge_topics(metadata)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bag."""
        self._stack.close()

    def messages(self, names: Collection[str]) -> Iterator[tuple[Topic, int, bytes]]:
        """Iterates over the messages of some topics in the order of recording.

        Yields:
            (topic, time of recording in nanoseconds, data, which may be compressed: see `bag_topics.unpacked`).
        """
        for file in self._files:
            # A topic has one type, unless files are damaged.
            chosen = {
                number: self.topics[topic.name]
                for number, topic in file.topics.items()
                if topic.name in names and topic.kind == self.topics[topic.name].kind
            }
            for number, recorded, data in file.messages(chosen) if chosen else ():
                yield chosen[number], recorded, data

    def decode(self, topic: Topic, data: bytes) -> Any:
        """Deserializes a message; its type need not be installed.

        Raises:
            ImageError: It is damaged, or the definition of its type is unknown.
        """
        reader = _reader_of(topic.kind, topic.encoding, topic.definition, topic.language)
        if isinstance(reader, str):
            raise ImageError(reader)
        try:
            return reader(unpacked(data))
        except Exception as error:  # Deserialization raises many types of errors.
            text = first_line(error) or type(error).__name__
            raise ImageError(f"the message is damaged: {text}") from None

    def _say(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._tell(f"{self.path}: {text}")

    # Opening

    def _list_files(self) -> tuple[dict[str, Any], list[Path]]:
        """The metadata of the topics by name, and the files.

        Raises:
            ImageError: There is no bag.
        """
        if not self.path.exists():
            raise ImageError(f"{self.path} is not a readable ROS 2 bag: it does not exist")
        if not self.path.is_dir():
            if not is_bag_file(self.path):
                raise ImageError(f"{self.path} is not a readable ROS 2 bag: expected a folder, .mcap or .db3")
            return {}, [self.path]
        there, file = files_in(self.path), self.path / METADATA
        try:
            about = _metadata(file)
            listed = [self.path / Path(str(name)).name for name in about["relative_file_paths"]]
            topics = {
                str(item["topic_metadata"]["name"]): item["topic_metadata"]
                for item in about["topics_with_message_count"]
            }
        except FileNotFoundError:
            self._say(f"there is no {METADATA}, so the recorder was killed; all existing files are read")
            return {}, there
        except (OSError, KeyError, TypeError, ValueError, YamlError, RecursionError) as error:
            text = first_line(error) or type(error).__name__
            self._say(f"{METADATA} is invalid ({text}); all existing files are read")
            return {}, there
        # Listed from the folder: a name in the metadata may be too long for a file system call.
        present = {path.name for path in self.path.iterdir() if path.is_file()}
        for name in [path.name for path in listed if path.name not in present]:
            self._say(f"{short_name(name)} is missing, although it is listed in {METADATA}")
        # A recorder that is killed while splitting leaves a file that is not listed.
        unlisted = [path for path in there if path not in listed]
        for path in unlisted:
            self._say(f"{path.name} is not listed in {METADATA}; it is read anyway")
        return topics, [path for path in listed if path.name in present] + unlisted

    def _open(self, path: Path) -> BagFile:
        """Opens a file.

        Raises:
            ImageError: It is not a readable bag file.
            OSError: It cannot be opened.
        """
        if not path.stat().st_size:
            raise ImageError(f"{path.name} is empty: the recorder was killed before it wrote anything")
        opened = self._unpack(path) if is_packed(path) else path
        suffix = storage_suffix(path)
        if suffix not in (".mcap", ".db3"):
            raise ImageError(f"{path.name} has an unsupported storage format; expected .mcap or .db3")
        file = McapFile(opened, self._say) if suffix == ".mcap" else Sqlite3File(opened, self._say)
        self._stack.callback(file.close)
        return file

    def _unpack(self, path: Path) -> Path:
        """Decompresses a compressed file into a temporary folder, as far as possible."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fcclip_bag_")))
        unpacked_path = folder / path.stem
        with path.open("rb") as packed, unpacked_path.open("wb") as out:
            try:
                with zstd().open(packed, "rb") as file:
                    while part := file.read(_BUFFER):
                        out.write(part)
            except (zstd().ZstdError, EOFError) as error:
                self._say(f"{path.name} is truncated or damaged ({error}); the data before that is read")
        if not unpacked_path.stat().st_size:
            raise ImageError(f"{path.name} cannot be decompressed")
        return unpacked_path

    def _merge_topics(self, metadata: dict[str, Any]) -> None:
        """Merges the topics of all files and the metadata, each of which may be incomplete."""
        for file in self._files:
            for topic in file.topics.values():
                known = self.topics.get(topic.name)
                if known is None:
                    self.topics[topic.name] = topic
                elif known.kind != topic.kind:
                    self._say(f"{topic.name} has several types; only {known.kind} is read")
                elif topic.definition and not known.definition:
                    self.topics[topic.name] = topic
        for name, topic in self.topics.items():
            recorded = metadata.get(name)
            if isinstance(recorded, dict) and recorded.get("type") == topic.kind and not topic.digest:
                self.topics[name] = replace(topic, digest=str(recorded.get("type_description_hash") or ""))


def _metadata(file: Path) -> dict[str, Any]:
    """The content of metadata.yaml.

    Raises:
        OSError: It cannot be read, is not a regular file, or is too large.
        ValueError: It is not text.
        KeyError: It is not the metadata of a bag.
        TypeError: It is not the metadata of a bag.
        YamlError: It is not valid or not plain YAML.
    """
    return read_yaml(read_regular_file(file, _METADATA_BYTES).decode())["rosbag2_bagfile_information"]


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path.name} cannot be read: {error.strerror or error}"
    return str(error)


# Types


@functools.lru_cache(maxsize=256)
def _reader_of(kind: str, encoding: str, definition: str, language: str) -> Callable[[bytes], Any] | str:
    """The function that deserializes a message type, or why there is none.

    Each type has its own typestore with the recorded definition, so that an invalid definition affects only its type.
    """
    if encoding != "cdr":
        return f"the serialization format {encoding[:40]!r} is not supported; expected cdr"
    store, problem = typestore_of(kind, definition, language)
    if store is None:
        return problem
    return lambda data: store.deserialize_cdr(data, kind)


def typestore_of(kind: str, definition: str, language: str) -> tuple[Any, str]:
    """A typestore with a type: from the recorded definition, else from common and installed messages.

    Returns:
        A typestore of rosbags, or None and the reason.
    """
    from rosbags.typesys import Stores, get_typestore

    why = "its definition is neither in the bag nor among the common messages of ROS"
    if definition:
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_parsed(kind, definition, language))
            if kind in store.fielddefs:
                return store, ""
            why = "its definition in the bag is that of another type"
        except Exception as error:  # The parser raises many types of errors.
            why = f"its definition in the bag is invalid ({first_line(error) or type(error).__name__})"
    # Bags of distributions before Iron have no definitions.
    common = message_definitions("humble")
    return (common, "") if kind in common.fielddefs else (None, f"the type {kind or '(none)'} cannot be read: {why}")


def _parsed(kind: str, definition: str, language: str) -> Any:
    """Fields by type, of a definition and its dependencies."""
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    if language != "ros2idl":
        return get_types_from_msg(definition, kind)
    separator = "=" * 80 + "\n"
    found: dict[str, Any] = {}
    if not definition.startswith(f"{separator}IDL: "):
        return get_types_from_idl(definition)
    for part in definition.split(separator)[1:]:
        found |= get_types_from_idl(part.partition("\n")[2])
    return found


@functools.cache
def message_definitions(distribution: str = "jazzy") -> Any:
    """Typestore with the common messages of a distribution, and the installed messages that the node publishes."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores[f"ROS2_{distribution.upper()}"])
    for package in ("fcclip_ros", "vision_msgs"):
        found: dict[str, Any] = {}
        for path in definition_files(package):
            found |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{package}/msg/{path.stem}")
        store.register({name: fields for name, fields in found.items() if name not in store.fielddefs})
    return store


def definition_files(package: str) -> list[Path]:
    """The .msg files of an installed package; empty if it is not installed."""
    module = optional_module(f"{package}.msg")
    if module is None or module.__file__ is None:
        return []
    shares = (prefix / "share" / package / "msg" for prefix in Path(module.__file__).absolute().parents)
    return next((sorted(share.glob("*.msg")) for share in shares if share.is_dir()), [])
