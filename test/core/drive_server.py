"""A local server that gives out one file as Google Drive does: a question first, then the file, in ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

QUESTION = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form action="/other"><input type="hidden" name="confirm" value="wrong"></form>
<form id="download-form" action="{action}" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b"></form></body></html>"""
QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


@dataclass
class Drive:
    """The file, how the server behaves, and what was asked of it.

    Attributes:
        content: The file.
        id: Its id.
        cuts: Bytes after which each of the next connections breaks.
        page: A page that is sent instead of the file, after the question.
        page_status: Its status.
        version: The file's ETag; empty: none is sent, and ranges are given of whatever there is.
        has_length: Whether the file's size is said.
        asks: Whether the question is asked.
        action: Where the question's answer is sent to.
        asked: (path, Range header) of each request.
    """

    content: bytes
    id: str = "1-file_ID"
    cuts: list[int] = field(default_factory=list)
    page: str = ""
    page_status: int = 200
    version: str = '"v1"'
    has_length: bool = True
    asks: bool = True
    action: str = "/download"
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def starts(self) -> list[str]:
        """The ranges in which the file itself was asked for, "" for all of it."""
        return [wanted for path, wanted in self.asked if path == "/download"]


@contextmanager
def serving(drive: Drive) -> Iterator[str]:
    """Serves `drive`; yields the address that stands for Drive's, to be followed by a file's id."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            given = {name: values[0] for name, values in parse_qs(parts.query).items()}
            drive.asked.append((parts.path, self.headers.get("Range", "")))
            if given.get("id") != drive.id:
                self._send_page("<title>Not found</title>", 404)
            elif drive.asks and (parts.path == "/uc" or given.get("confirm") != "t" or given.get("uuid") != "a&b"):
                self._send_page(QUESTION.format(id=drive.id, action=drive.action), 200)
            elif drive.page:
                self._send_page(drive.page, drive.page_status)
            else:
                self._send_file()

        def _send_page(self, page: str, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())

        def _send_file(self) -> None:
            start, size = 0, len(drive.content)
            wanted = self.headers.get("Range", "")
            if wanted and self.headers.get("If-Range", drive.version) == drive.version:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start and start >= size:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Disposition", 'attachment; filename="weights.pth"')
            if drive.version:
                self.send_header("ETag", drive.version)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if drive.has_length:
                self.send_header("Content-Length", str(size - start))
            self.end_headers()
            rest = drive.content[start:]
            self.wfile.write(rest[: drive.cuts.pop(0)] if drive.cuts else rest)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/uc?export=download&id="
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
