"""A bag, read around whatever is missing or damaged: its files, its topics, its messages."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Collection, Iterator
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
"""A longer metadata.yaml is not read; the files say the same."""

_BUFFER = 1 << 20


class BagReader:
    """Reads a bag in a `with` block; of what cannot be read the rest is read, and it is said.

    Attributes:
        path: The bag.
        topics: What it holds, by name.
    """

    def __init__(self, path: Path, say: Say) -> None:
        """Prepares; nothing is opened before the `with` block.

        Args:
            path: A folder, or a file of one.
            say: Gets what is left out, while the bag is read, too; each sentence once.
        """
        self.path = path
        self.topics: dict[str, Topic] = {}
        self._said: set[str] = set()
        self._tell = say
        self._files: list[BagFile] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BagReader:
        """Opens the bag.

        Raises:
            ImageError: Nothing in it can be read.
        """
        complaints: list[str] = []
        with self._stack:
            digests, paths = self._look()
            for path in paths:
                try:
                    self._files.append(self._open(path))
                except (ImageError, OSError) as error:
                    complaints.append(_reason(path, error))
            if not self._files:
                why = "; ".join(complaints) or "there is no .mcap or .db3 file in it"
                raise ImageError(f"{self.path} is no readable ROS 2 bag: {why}")
            for complaint in complaints:
                self._say(f"{complaint}; it is left out")
            self._gather(digests)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bag."""
        self._stack.close()

    def messages(self, names: Collection[str]) -> Iterator[tuple[Topic, int, bytes]]:
        """Goes through messages of some topics, in the order they were recorded.

        Yields:
            The topic, when the message was recorded (nanoseconds), its bytes, maybe still compressed: see
            `bag_topics.unpacked`.
        """
        for file in self._files:
            # A topic is one type here, though files may be damaged.
            chosen = {
                number: self.topics[topic.name]
                for number, topic in file.topics.items()
                if topic.name in names and topic.kind == self.topics[topic.name].kind
            }
            for number, recorded, data in file.messages(chosen) if chosen else ():
                yield chosen[number], recorded, data

    def decode(self, topic: Topic, data: bytes) -> Any:
        """A message with the fields of the ROS message, whatever types this machine has installed.

        Raises:
            ImageError: It is damaged, or nothing says what its type is.
        """
        reader = self._reader(topic)
        if isinstance(reader, str):
            raise ImageError(reader)
        try:
            return reader(unpacked(data))
        except Exception as error:  # The reader of messages raises many types for damaged ones.
            text = first_line(error) or type(error).__name__
            raise ImageError(f"the message is damaged: {text}") from None

    def _reader(self, topic: Topic) -> Callable[[bytes], Any] | str:
        return _reader_of(topic.kind, topic.encoding, topic.definition, topic.language)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(f"{self.path}: {text}")

    # Opening

    def _look(self) -> tuple[dict[str, Any], list[Path]]:
        """What metadata.yaml says of the topics, by their names, and the files.

        Raises:
            ImageError: There is nothing.
        """
        if not self.path.exists():
            raise ImageError(f"{self.path} is no readable ROS 2 bag: it does not exist")
        if not self.path.is_dir():
            if not is_bag_file(self.path):
                raise ImageError(f"{self.path} is no readable ROS 2 bag: expected a folder, .mcap or .db3")
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
            self._say(f"there is no {METADATA}, so its recorder was killed; the files that are there are read")
            return {}, there
        except (OSError, KeyError, TypeError, ValueError, YamlError, RecursionError) as error:
            text = first_line(error) or type(error).__name__
            self._say(f"{METADATA} cannot be used ({text}); the files that are there are read")
            return {}, there
        # The folder is asked for its names, not the system for those in the file: one may be too long to be asked for.
        present = {path.name for path in self.path.iterdir() if path.is_file()}
        for name in [path.name for path in listed if path.name not in present]:
            self._say(f"{short_name(name)} is missing, though {METADATA} names it")
        # A recorder that was killed while it split leaves a file behind that is not listed.
        unlisted = [path for path in there if path not in listed]
        for path in unlisted:
            self._say(f"{path.name} is not named in {METADATA}; it is read all the same")
        return topics, [path for path in listed if path.name in present] + unlisted

    def _open(self, path: Path) -> BagFile:
        """Opens one file.

        Raises:
            ImageError: It is not readable at all.
            OSError: Likewise.
        """
        if not path.stat().st_size:
            raise ImageError(f"{path.name} is empty: its recorder was killed before it wrote anything")
        opened = self._unpack(path) if is_packed(path) else path
        suffix = storage_suffix(path)
        if suffix not in (".mcap", ".db3"):
            raise ImageError(f"{path.name} is written in a form that is not read here; expected .mcap or .db3")
        file = McapFile(opened, self._say) if suffix == ".mcap" else Sqlite3File(opened, self._say)
        self._stack.callback(file.close)
        return file

    def _unpack(self, path: Path) -> Path:
        """A file that was compressed as a whole, as far as it can be decompressed, in a folder that goes with this."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fcclip_bag_")))
        whole = folder / path.stem
        with path.open("rb") as packed, whole.open("wb") as out:
            try:
                with zstd().open(packed, "rb") as file:
                    while part := file.read(_BUFFER):
                        out.write(part)
            except (zstd().ZstdError, EOFError) as error:
                self._say(f"{path.name} is cut or damaged ({error}); what comes before that is read")
        if not whole.stat().st_size:
            raise ImageError(f"{path.name} cannot be decompressed")
        return whole

    def _gather(self, about: dict[str, Any]) -> None:
        """One list of topics from those of the files, which may each know a part."""
        for file in self._files:
            for topic in file.topics.values():
                known = self.topics.get(topic.name)
                if known is None:
                    self.topics[topic.name] = topic
                elif known.kind != topic.kind:
                    self._say(f"{topic.name} has two types; only its {known.kind} are read")
                elif topic.definition and not known.definition:
                    self.topics[topic.name] = topic
        for name, topic in self.topics.items():
            said = about.get(name)
            if isinstance(said, dict) and said.get("type") == topic.kind and not topic.digest:
                self.topics[name] = Topic(
                    *(topic.name, topic.kind, topic.encoding, topic.definition, topic.language),
                    digest=str(said.get("type_description_hash") or ""),
                    qos=topic.qos,
                )


def _metadata(file: Path) -> dict[str, Any]:
    """What metadata.yaml says.

    Raises:
        OSError: It cannot be read, is no regular file, or is too long.
        ValueError: It is not text.
        KeyError: It is no bag's.
        TypeError: Likewise.
        YamlError: It is no YAML, or no plain one.
    """
    return read_yaml(read_regular_file(file, _METADATA_BYTES).decode())["rosbag2_bagfile_information"]


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path.name} cannot be read: {error.strerror or error}"
    return str(error)


# Types


@functools.lru_cache(maxsize=256)
def _reader_of(kind: str, encoding: str, definition: str, language: str) -> Callable[[bytes], Any] | str:
    """The function that reads messages of a type, or why there is none.

    Each type is read with the definitions that were recorded with it, so that one that cannot be understood costs
    nobody else anything.
    """
    if encoding != "cdr":
        return f"messages in the encoding {encoding[:40]!r} are not ROS 2's; expected cdr"
    store, problem = typestore_of(kind, definition, language)
    if store is None:
        return problem
    return lambda data: store.deserialize_cdr(data, kind)


def typestore_of(kind: str, definition: str, language: str) -> tuple[Any, str]:
    """Definitions that say what a type is: those that were recorded, else those of common and installed messages.

    Returns:
        A typestore of rosbags, or None and why there is none.
    """
    from rosbags.typesys import Stores, get_typestore

    why = "its definition is not in the bag, nor among ROS's common messages"
    if definition:
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_parsed(kind, definition, language))
            if kind in store.fielddefs:
                return store, ""
            why = "its definition in the bag is that of another type"
        except Exception as error:  # The parser raises many types.
            why = f"its definition in the bag cannot be understood ({first_line(error) or type(error).__name__})"
    # Bags from before Iron carry no definitions.
    common = message_definitions("humble")
    return (common, "") if kind in common.fielddefs else (None, f"the type {kind or '(none)'} cannot be read: {why}")


def _parsed(kind: str, definition: str, language: str) -> Any:
    """Fields by type, of a definition and those that come with it."""
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
    """Definitions of a distribution's common messages, and those of what the node publishes as they are installed."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores[f"ROS2_{distribution.upper()}"])
    for package in ("fcclip_ros", "vision_msgs"):
        found: dict[str, Any] = {}
        for path in definition_files(package):
            found |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{package}/msg/{path.stem}")
        store.register({name: fields for name, fields in found.items() if name not in store.fielddefs})
    return store


def definition_files(package: str) -> list[Path]:
    """The .msg files that belong to a package's generated Python modules; none if it is not installed."""
    module = optional_module(f"{package}.msg")
    if module is None or module.__file__ is None:
        return []
    shares = (prefix / "share" / package / "msg" for prefix in Path(module.__file__).absolute().parents)
    return next((sorted(share.glob("*.msg")) for share in shares if share.is_dir()), [])
