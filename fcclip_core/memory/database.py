"""The memory's file: an SQLite database with a versioned schema, opened with suspicion."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcclip_core.errors import MemoryFileError
from fcclip_core.memory.codec import MAX_STATE_BYTES, MAX_VIEW_BYTES, Row, decode
from fcclip_core.memory.crops import MAX_CROP_BYTES
from fcclip_core.memory.objects import RememberedObject
from fcclip_core.memory.observation import MAX_DIMENSION
from fcclip_core.quoting import first_line, short_name

SCHEMA_VERSION = 1
"""Version of the tables below; a change of them adds a step to `_MIGRATIONS`."""

APPLICATION_ID = 0x46434D31
"""Marks the file as an object memory: "FCM1"."""

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_VERSION_AT, _APPLICATION_AT = 60, 68
_MAX_META_BYTES = 1 << 26
_PATIENCE = 10.0
"""Seconds to wait for a process that reads the file."""

_TABLES = """
CREATE TABLE objects (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, embedding BLOB NOT NULL, views BLOB NOT NULL, crop BLOB NOT NULL
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""Version -> what turns a file of that version into one of the next."""

_logger = logging.getLogger(__name__)


@dataclass
class Contents:
    """What a file holds.

    Attributes:
        objects: The objects.
        meta: JSON values by key.
        damaged: Number of rows that were left out because their numbers make no sense.
    """

    objects: list[RememberedObject] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    damaged: int = 0


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, Contents]:
    """Opens a memory file, or creates it; a corrupt one is moved aside, which the log says.

    Raises:
        MemoryFileError: It is of a newer version or another program's, or cannot be opened.
        sqlite3.OperationalError: The disk is full.
    """
    _require_ours(path)
    try:
        return _opened(path)
    except sqlite3.DatabaseError as error:
        if is_full(error):
            raise
        if not _is_corrupt(error):
            raise MemoryFileError(f"cannot open the memory file {short_name(path)}: {first_line(error)}") from error
        moved = move_aside(path)
        _logger.error(
            "the memory file %s is corrupt (%s); it was moved to %s, and the memory starts empty",
            short_name(path),
            first_line(error),
            short_name(moved),
        )
        return _opened(path)


def read(path: Path) -> Contents:
    """Reads a memory file without changing it, also while another process writes it.

    Raises:
        MemoryFileError: There is no such file, or it is corrupt, of a newer version or another program's.
    """
    if not path.is_file():
        raise MemoryFileError(f"there is no memory file {short_name(path)}")
    _require_ours(path)
    try:
        with contextlib.closing(_connect(path, "ro")) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                raise MemoryFileError(
                    f"the memory file {short_name(path)} is empty or of an older version; open it for writing once"
                )
            return _contents(connection)
    except sqlite3.Error as error:
        raise MemoryFileError(f"cannot read the memory file {short_name(path)}: {first_line(error)}") from error


def write(connection: sqlite3.Connection, rows: Iterable[Row], removed: Iterable[int], meta: Mapping[str, Any]) -> None:
    """Writes changes, all or nothing; on the disk when it returns.

    Raises:
        sqlite3.Error: It did not work, and nothing changed.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM objects WHERE id = ?", ((number,) for number in removed))
        connection.executemany(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)",
            ((row.id, row.state, row.embedding, row.views, row.crop) for row in rows),
        )
        connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", ((key, json.dumps(value)) for key, value in meta.items())
        )
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, sqlite3.OperationalError) and any(
        text in str(error) for text in ("full", "disk I/O error")
    )


def move_aside(path: Path) -> Path:
    """Renames a file and what SQLite keeps beside it; returns the new name."""
    stem = f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}"
    moved = next(
        candidate
        for number in range(1000)
        if not (candidate := path.with_name(f"{stem}-{number}" if number else stem)).exists()
    )
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{moved}{suffix}")
    return moved


def _opened(path: Path) -> tuple[sqlite3.Connection, Contents]:
    connection = _connect(path, "rwc")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # Each write reaches the disk before it counts as saved: robots lose power.
        connection.execute("PRAGMA synchronous = FULL")
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {problem}")
        _migrate(connection)
        return connection, _contents(connection)
    except BaseException:
        connection.close()
        raise


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    # Transactions are begun and ended by hand; the store sees to it that one thread at a time uses the connection.
    connection = sqlite3.connect(uri, timeout=_PATIENCE, isolation_level=None, uri=True, check_same_thread=False)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if version == 0:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    else:
        for step in range(version, SCHEMA_VERSION):
            _MIGRATIONS[step](connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
    # The version belongs into the file itself, where it is looked for before the file is opened.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _contents(connection: sqlite3.Connection) -> Contents:
    contents = Contents()
    keys = connection.execute("SELECT key, value FROM meta WHERE length(value) <= ?", (_MAX_META_BYTES,))
    for key, value in keys:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            contents.meta[str(key)] = json.loads(value)
    limits = (MAX_STATE_BYTES, 4 * MAX_DIMENSION, MAX_VIEW_BYTES, MAX_CROP_BYTES)
    fits = "length(state) <= ? AND length(embedding) <= ? AND length(views) <= ? AND length(crop) <= ?"
    for values in connection.execute(f"SELECT id, state, embedding, views, crop FROM objects WHERE {fits}", limits):
        try:
            contents.objects.append(decode(Row(*values)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            contents.damaged += 1
    total = connection.execute("SELECT count(*) FROM objects").fetchone()[0]
    contents.damaged = total - len(contents.objects)
    return contents


def _require_ours(path: Path) -> None:
    """Refuses what another program or a newer version wrote, before SQLite touches it.

    Raises:
        MemoryFileError: It is one of these, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise MemoryFileError(f"{short_name(path)} is not a file; a memory is kept in one")
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise MemoryFileError(
                f"cannot create the memory file {short_name(path)}: there is no folder {short_name(path.parent)}"
            ) from None
        return
    except OSError as error:
        raise MemoryFileError(f"cannot open the memory file {short_name(path)}: {error.strerror}") from error
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return  # empty, or corrupt: SQLite says so
    version, application = (
        int.from_bytes(header[start : start + 4], "big") for start in (_VERSION_AT, _APPLICATION_AT)
    )
    if application not in (0, APPLICATION_ID) or (application == 0 and version):
        raise MemoryFileError(f"{short_name(path)} is a database of another program; choose another file")
    if version > SCHEMA_VERSION:
        raise MemoryFileError(
            f"the memory file {short_name(path)} has version {version}, this program writes {SCHEMA_VERSION}; it was "
            "left as it is: update fcclip_ros, or choose another file"
        )


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    texts = ("malformed", "not a database", "no such table", "no such column", "corrupt")
    return any(text in str(error) for text in texts)
