"""The web pages that Google Drive sends instead of a file: what they ask for, or why there is no file."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

from fcclip_core.quoting import short

DIRECT = "https://drive.google.com/uc?export=download&id="
"""Address of a shared file's content, followed by the file's id."""

_SHARED = re.compile(r"https://drive\.google\.com/file/d/([\w-]+)")
_QUOTA = ("quota exceeded", "too many users have viewed or downloaded")
_LOGIN_HOST = "accounts.google.com"


def content_url(page: str) -> str:
    """The address of a file's content for its download page; other addresses are unchanged."""
    found = _SHARED.match(page)
    return DIRECT + found[1] if found else page


def confirmed(page: str, url: str) -> str:
    """The address behind "download anyway", which Drive offers for files too large for its virus scanner.

    Args:
        page: The page, HTML.
        url: Its address.

    Returns:
        The address; empty if the page offers none.
    """
    form = _Page.parsed(page)
    if form.action is None:
        return ""
    target = urljoin(url, form.action)
    # A page must not lead to another protocol, such as file:, or away from an encrypted connection.
    if urlsplit(target).scheme not in {"https", urlsplit(url).scheme}:
        return ""
    return f"{target}{'&' if urlsplit(target).query else '?'}{urlencode(form.inputs)}"


def why_no_file(page: str, url: str) -> str:
    """What a page sent instead of a file says, as part of a sentence."""
    if any(words in page.lower() for words in _QUOTA):
        return "Google Drive's download quota of this file is used up for now; try again in a day"
    if urlsplit(url).hostname == _LOGIN_HOST:
        return "the file is not public: the server asks for a login"
    title = _Page.parsed(page).title.strip()
    return f"the server sent a web page{f' called {short(title)}' if title else ''} instead of the file"


class _Page(HTMLParser):
    """Title and download form of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.action: str | None = None
        self.inputs: dict[str, str] = {}
        self._open: set[str] = set()

    @classmethod
    def parsed(cls, page: str) -> _Page:
        parser = cls()
        parser.feed(page)
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the form with the id `download-form` and its inputs."""
        found = {name: value or "" for name, value in attrs}
        if tag == "title" or (tag == "form" and found.get("id") == "download-form"):
            self._open.add(tag)
        if tag == "form" and "form" in self._open:
            self.action = found.get("action", "")
        if tag == "input" and "form" in self._open and "name" in found:
            self.inputs[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """Leaves the title or the form."""
        self._open.discard(tag)

    def handle_data(self, data: str) -> None:
        """Notes the title."""
        if "title" in self._open:
            self.title += data
