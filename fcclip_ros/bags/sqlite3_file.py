"""Tolerant reader of sqlite3 bag files: files that were not closed are recovered, and damaged parts are skipped."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from fcclip_core.errors import ImageError
from fcclip_ros.bags.bag_topics import Say, Topic

_JOURNALS = ("-wal", "-journal")
"""Suffixes of the files with changes that are not in the database yet, or would be rolled back."""

_GAP = 10_000
"""Consecutive ids without a readable message after which the scan of a damaged file stops."""


class Sqlite3File:
    """See `bag_topics.BagFile`."""

    def __init__(self, path: Path, say: Say) -> None:
        """Opens a file and reads its topics.

        Args:
            path: The file, which is not modified.
            say: Called about skipped data, also while the file is read.

        Raises:
            ImageError: It is not a bag file, or too damaged.
            OSError: It cannot be opened or copied.
        """
        self._name, self._say = path.name, say
        self._stack = contextlib.ExitStack()
        with self._stack:
            try:
                self._database = self._open(path)
                self._stack.callback(self._database.close)
                self.topics = self._find_topics()
            except (sqlite3.Error, KeyError, ValueError) as error:
                raise ImageError(f"{path.name} is not a bag file, or is truncated or damaged ({error})") from error
            self._stack = self._stack.pop_all()

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `BagFile.messages`."""
        wanted = set(numbers)
        placeholders = ",".join("?" * len(wanted))
        query = (
            f"SELECT id, topic_id, timestamp, data FROM messages WHERE topic_id IN ({placeholders}) ORDER BY timestamp"
        )
        seen: set[int] = set()
        try:
            for number, topic, time, data in self._database.execute(query, sorted(wanted)):
                seen.add(number)
                if isinstance(time, int) and isinstance(data, bytes):
                    yield topic, time, data
        except sqlite3.DatabaseError as error:
            yield from self._salvage(wanted, seen, error)

    def _salvage(self, wanted: set[int], seen: set[int], reason: Exception) -> Iterator[tuple[int, int, bytes]]:
        """Reads the remaining messages individually by id, so that each damaged one only affects itself."""
        query = "SELECT topic_id, timestamp, data FROM messages WHERE id = ?"
        number, last, lost, lost_before_last = 0, 0, 0, 0
        found: list[tuple[int, int]] = []
        while number - last < _GAP:
            number += 1
            try:
                row = self._database.execute(query, (number,)).fetchone()
            except sqlite3.DatabaseError:
                lost += 1
                continue
            if row is not None:
                last, lost_before_last = number, lost
                if number not in seen and row[0] in wanted and isinstance(row[1], int) and isinstance(row[2], bytes):
                    found.append((row[1], number))
        self._say(
            f"{self._name} is truncated or damaged ({reason}): at least {lost_before_last or 1} messages of all topics "
            "are skipped"
        )
        for time, number in sorted(found):
            with contextlib.suppress(sqlite3.DatabaseError):
                topic, _, data = self._database.execute(query, (number,)).fetchone()
                yield topic, time, data

    def _open(self, path: Path) -> sqlite3.Connection:
        journals = [path.with_name(path.name + suffix) for suffix in _JOURNALS]
        journals = [file for file in journals if file.is_file() and file.stat().st_size]
        if not journals:
            return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        # Recovery writes to the database, so it is done on a copy.
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fcclip_bag_")))
        for file in (path, *journals):
            shutil.copyfile(file, folder / file.name)
        self._say(f"{path.name} was not closed by its recorder; {journals[0].name} is read, too")
        return sqlite3.connect(folder / path.name)

    def _find_topics(self) -> dict[int, Topic]:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise sqlite3.DatabaseError("it has no tables topics and messages")
        definitions = {}
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoded_message_definition, encoding FROM message_definitions"
            definitions = {kind: (str(text), str(language)) for kind, text, language in self._database.execute(query)}
        rows = self._database.execute("SELECT * FROM topics")
        columns = [column[0] for column in rows.description]
        topics = {}
        for row in rows:
            about = dict(zip(columns, row, strict=True))
            kind = str(about["type"])
            text, language = definitions.get(kind, ("", ""))
            topics[about["id"]] = Topic(
                str(about["name"]),
                kind,
                str(about.get("serialization_format") or "cdr"),
                text,
                language,
                str(about.get("type_description_hash") or ""),
                str(about.get("offered_qos_profiles") or ""),
            )
        return topics
