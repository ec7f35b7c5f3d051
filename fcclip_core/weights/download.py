"""Downloads a published file over HTTP, also from Google Drive, and resumes what was interrupted.

The bytes go to FILE.part, beside which FILE.part.json says what they are a part of. Only a whole, checked file gets the
name FILE.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener, getproxies, proxy_bypass

from fcclip_core.errors import CheckpointError
from fcclip_core.files.atomic_write import write_atomically
from fcclip_core.files.json_files import json_line
from fcclip_core.files.regular_files import read_regular_file
from fcclip_core.quoting import first_line
from fcclip_core.weights.drive_pages import confirmed, content_url, why_no_file
from fcclip_core.weights.weight_files import sha256_of

Progress = Callable[[str, int, int], None]
"""Called with (name of the task, units done, total units)."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
ATTEMPTS = 4
"""Connections per call; each continues where the one before was lost."""
MAX_SIZE = 1 << 34
"""Largest file in bytes."""
_BLOCK = 1 << 20
_MAX_PAGE = 1 << 20
_MAX_RECORD = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _FailedError(Exception):
    """The download cannot go on; says why, as part of a sentence."""


class _LostError(Exception):
    """A connection failed, perhaps only this one; says why, as part of a sentence."""


@dataclass(frozen=True)
class _Record:
    """What the bytes of a part belong to.

    Attributes:
        url: The address that was asked for.
        size: Bytes of the whole file.
        version: The server's name of this version of the file (ETag or date); empty if there is none.
    """

    url: str
    size: int
    version: str


def download(
    page: str,
    path: Path,
    *,
    sha256: str = "",
    check: Callable[[Path], object] | None = None,
    progress: Progress | None = None,
) -> None:
    """Downloads a file; an earlier, interrupted download of it is continued.

    Proxies are taken from the environment (`https_proxy`).

    Args:
        page: The file's address, or Google Drive's page about it.
        path: Where to put the file; what is there is replaced. The folder must exist.
        sha256: SHA-256 that the file must have, hexadecimal; empty: not checked.
        check: Raises a CheckpointError if the whole file is not what it should be.
        progress: Called with bytes.

    Raises:
        CheckpointError: The download failed; says how to do it by hand. What has arrived is kept for the next call,
            unless it is of a wrong file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with _locked(part) as file:
            _fetch_all(content_url(page), part, file, progress or (lambda what, done, total: None))
            os.fsync(file.fileno())
            try:
                _verify(part, sha256, check)
            except _FailedError:
                _record_path(part).unlink(missing_ok=True)
                part.unlink()
                raise
            os.replace(part, path)
            _record_path(part).unlink(missing_ok=True)
    except (_FailedError, OSError) as error:
        why = str(error) if isinstance(error, _FailedError) else f"{part}: {error.strerror or error}"
        raise CheckpointError(
            f"{path.name} could not be downloaded: {why}. By hand: open {page} in a browser, save the file, and run: "
            "fcclip weights import FILE"
        ) from error


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """Opens a part for appending, which only one process can at a time."""
    with FileIO(part, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(file.fileno()), os.stat(part))
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:  # another process has it, or has just renamed it
            raise _FailedError("another process is downloading it; wait for that one")
        yield file


def _fetch_all(url: str, part: Path, file: FileIO, report: Progress) -> None:
    """Fetches what is missing; a lost connection that brought something is followed by another."""
    opener = build_opener(HTTPCookieProcessor())
    why = ""
    for _ in range(ATTEMPTS):
        before = _size_of(file)
        try:
            if _fetch(opener, url, part, file, report):
                return
            why = "the connection was lost"
        except _LostError as error:
            why = str(error)
        if _size_of(file) <= before:
            break
    arrived = _size_of(file)
    kept = f"; {arrived / 1e6:,.1f} MB have arrived and are kept: the same command continues there" if arrived else ""
    raise _FailedError(f"{why}{kept}")


def _fetch(opener: OpenerDirector, url: str, part: Path, file: FileIO, report: Progress) -> bool:
    """Appends what one connection brings.

    Returns:
        Whether the file is whole, as far as the server says how long it is.
    """
    known = _read_record(part)
    if known is None or known.url != url or _size_of(file) > known.size:
        known = None
        file.truncate(0)
    elif _size_of(file) == known.size:
        return True
    with _respond(opener, url, _size_of(file), known.version if known else "") as response:
        if not _continues(response, known, _size_of(file)):
            file.truncate(0)
        start = _size_of(file)
        length = response.headers.get("Content-Length", "")
        size = start + int(length) if length.isdecimal() else None
        _require_room(part.parent, start, size)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if size is None:  # what is cut short could not be told from what is whole
            _record_path(part).unlink(missing_ok=True)
        else:
            write_atomically(_record_path(part), json_line(asdict(_Record(url, size, version))))
        for block in _blocks(response):
            _append(file, block, part.parent)
            report(f"downloading {part.stem}", _size_of(file), size or 0)
    return size is None or _size_of(file) == size


def _respond(opener: OpenerDirector, url: str, start: int, version: str) -> HTTPResponse:
    """The response with the file from byte `start` on; confirms Google Drive's question about large files."""
    response = _request(opener, url, start, version)
    if not _is_page(response):
        return response
    page, address = _text_of(response), response.url
    if target := confirmed(page, address):
        response = _request(opener, target, start, version)
        if not _is_page(response):
            return response
        page, address = _text_of(response), response.url
    raise _FailedError(why_no_file(page, address))


def _request(opener: OpenerDirector, url: str, start: int, version: str) -> HTTPResponse:
    headers = {"User-Agent": "fcclip"}
    if start:
        headers["Range"] = f"bytes={start}-"
        # A weak ETag may name two files that differ.
        if version and not version.startswith("W/"):
            headers["If-Range"] = version
    try:
        response: HTTPResponse = opener.open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            raise _FailedError(_said_by_server(error)) from error
    except (URLError, HTTPException, OSError) as error:
        raise _LostError(f"{_said_by_network(error)}{_proxy_of(url)}") from error
    if urlsplit(url).scheme == "https" != urlsplit(response.url).scheme:
        response.close()
        raise _FailedError("the server leads to an address without encryption")
    return response


def _is_page(response: HTTPResponse) -> bool:
    is_html = response.headers.get_content_type() == "text/html"
    return is_html and response.headers.get_content_disposition() != "attachment"


def _text_of(response: HTTPResponse | HTTPError) -> str:
    with response, contextlib.suppress(OSError, HTTPException):
        return response.read(_MAX_PAGE).decode("utf-8", "replace")
    return ""


def _continues(response: HTTPResponse, known: _Record | None, start: int) -> bool:
    """Whether a response continues a part of `start` bytes, of the same file.

    Raises:
        _FailedError: It begins in the middle of another file.
    """
    if response.status != 206:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or known is None or int(found[1]) != start or found[2] not in {str(known.size), "*"}:
        raise _FailedError("the server continues with another file than the one that was begun; remove the .part file")
    return True


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(_BLOCK)
        except (HTTPException, OSError) as error:
            raise _LostError(f"the connection was lost ({_said_by_network(error)})") from error
        if not block:
            return
        yield block


def _append(file: FileIO, block: bytes, folder: Path) -> None:
    rest = memoryview(block)
    if _size_of(file) + len(rest) > MAX_SIZE:
        raise _FailedError(f"the server sends more than {MAX_SIZE:,} bytes, which no published file has")
    while rest:
        try:
            rest = rest[file.write(rest) :]
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _FailedError(f"no space is left in {folder}; make room, and the same command continues") from error


def _require_room(folder: Path, start: int, size: int | None) -> None:
    """Checks that the rest of the file fits on the disk, before minutes are spent on it."""
    free = shutil.disk_usage(folder).free
    if size is not None and size - start > free:
        raise _FailedError(
            f"{folder} has {free / 1e6:,.0f} MB free, but {(size - start) / 1e6:,.0f} MB are needed; make room"
        )


def _verify(part: Path, sha256: str, check: Callable[[Path], object] | None) -> None:
    if sha256 and (found := sha256_of(part)) != sha256.lower():
        raise _FailedError(f"its SHA-256 is {found}, not {sha256.lower()}, so it is removed")
    try:
        if check is not None:
            check(part)
    except CheckpointError as error:
        raise _FailedError(
            f"what the server sent is removed, because it is not the published file ({error})"
        ) from error


def _size_of(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _record_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_record(part: Path) -> _Record | None:
    """The record of a part; None if there is none, or a damaged one."""
    try:
        stored = json.loads(read_regular_file(_record_path(part), _MAX_RECORD))
        record = _Record(**stored)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    is_valid = isinstance(record.url, str) and isinstance(record.version, str) and record.version.isprintable()
    return record if is_valid and isinstance(record.size, int) else None


def _said_by_server(error: HTTPError) -> str:
    is_page = error.headers.get_content_type() == "text/html"
    said = why_no_file(_text_of(error), error.url or "") if is_page else ""
    status = f"the server answers {error.code} {first_line(error.reason)}".rstrip()
    return f"{status}: {said}" if said else status


def _said_by_network(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, OSError):
        reason = reason.strerror or reason
    return first_line(reason) or type(error).__name__


def _proxy_of(url: str) -> str:
    """Which proxy was asked for `url`, without the password that its address may hold."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    return f"; {parts.scheme}_proxy names the proxy {urlsplit(proxy).hostname or 'of an invalid address'}"
