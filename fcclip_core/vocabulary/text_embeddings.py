"""Words -> text rows: prompt templates, tokens, template means, and their cache (paper, section 3.1).

A row costs fourteen prompts through CLIP's text tower, so each is computed once: it is kept in memory and on disk,
known by the tower, the templates and the name. One new word costs one word.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor

from fcclip_core.errors import BackendError, CheckpointError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.cache_folder import keep_ours, open_ours
from fcclip_core.kernels.onednn import text_tower_for_processor
from fcclip_core.model.text_tower import TextTower
from fcclip_core.model.token_tree import TokenTree, in_groups
from fcclip_core.quoting import short

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The prompts that the published models were trained and evaluated with."""

CONTEXT_LENGTH = 77
"""Tokens that CLIP reads of a prompt, start and end token included."""

Encode = Callable[[list[str]], Tensor]
"""N prompts -> float32 `(N, D)`, not normalized."""

Progress = Callable[[int, int], None]
"""Called with (names encoded so far, names to encode)."""

_TEXT_LENGTH = CONTEXT_LENGTH - 2
_CHUNK = 16
_TREE = 1200
"""Tokens of prompts that are encoded together. More share more, but attention grows with the square of what is left."""

_RELEASE_AFTER = 60.0
_CACHE_FORMAT = "fcclip text row 2"
_DIGEST_SIZE = hashlib.sha256().digest_size
_LARGEST_ROW = _DIGEST_SIZE + (1 << 20)
"""Bytes that are read of a kept row's file at most."""

_UNIT = 1e-3
"""How far a kept row's length may be from 1."""

_logger = logging.getLogger(__name__)


class TextRows:
    """Text rows of names, computed once.

    May be used from several threads; names that are already known never wait for others that are being encoded.
    """

    def __init__(
        self,
        encode: Encode,
        tower_id: str,
        cache_dir: Path | None = None,
        *,
        width: int | None = None,
        templates: Sequence[str] = TEMPLATES,
    ) -> None:
        """Starts with what `cache_dir` holds.

        Args:
            encode: Embeds prompts; called with the prompts of at most 16 new names.
            tower_id: Identity of what `encode` computes: equal ids must give equal rows.
            cache_dir: Folder that keeps rows between runs; made when needed. None keeps them in memory only. A folder
                that cannot be written is said once in the log, and a file that is damaged, another user's or no unit
                row is computed again.
            width: Length D of a row; None takes that of the first row.
            templates: The prompts of a name, with {} where it stands.
        """
        self._encode = encode
        self._templates = tuple(templates)
        self._identity = json.dumps([_CACHE_FORMAT, tower_id, self._templates, CONTEXT_LENGTH, _tokenizer_digest()])
        self._width = width
        self._said_unusable = False
        self._cache_dir = cache_dir
        self._writable = cache_dir is not None
        self._known: dict[str, Tensor] = {}
        self._encoding = threading.Lock()

    def rows(self, names: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Looks rows up and encodes those that are new.

        Args:
            names: N names, at least one; repeated ones are fine.
            progress: Called while new names are encoded; not at all where none is new.

        Returns:
            float32 `(N, D)` on the CPU: for each name the mean of its unit prompt embeddings, of unit length.

        Raises:
            CheckpointError: The text tower gives no usable numbers.
        """
        if self.unknown(names):
            with self._encoding:
                self._learn(self.unknown(names), progress)
        return torch.stack([self._known[name] for name in names])

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those names, each once, whose rows are not in memory: `rows` takes time for them."""
        return [name for name in dict.fromkeys(names) if name not in self._known]

    def _learn(self, names: list[str], progress: Progress | None) -> None:
        new = [name for name in names if not self._recall(name)]
        for start in range(0, len(new), _CHUNK):
            chunk = new[start : start + _CHUNK]
            embeddings = self._encode(prompts_for(chunk, self._templates))
            for name, row in zip(chunk, _template_mean(chunk, embeddings), strict=True):
                self._width, self._known[name] = len(row), row
                self._store(name, row)
            if progress is not None:
                progress(start + len(chunk), len(new))

    def _recall(self, name: str) -> bool:
        path = self._path(name)
        if path is None:
            return False
        try:
            with open_ours(path) as file:
                content = file.read(_LARGEST_ROW)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            return self._is_unusable(name, error)
        digest, payload = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
        if not payload or len(payload) % 4 or digest != self._digest(name, payload):
            return self._is_unusable(name, f"{path} is damaged")
        row = torch.from_numpy(np.frombuffer(payload, "<f4").astype(np.float32))
        if len(row) != (self._width or len(row)):
            return self._is_unusable(name, f"{path} holds {len(row)} numbers, not {self._width}")
        if not abs(row.norm() - 1) < _UNIT:  # nor if there is no such number
            return self._is_unusable(name, f"{path} holds no row of unit length")
        self._width, self._known[name] = len(row), row
        return True

    def _is_unusable(self, name: str, why: object) -> bool:
        """Warns once that rows on disk are computed again; False, for `_recall`."""
        if not self._said_unusable:
            self._said_unusable = True
            _logger.warning("%s; the row of %s is computed again, and so are others like it", why, short(name))
        return False

    def _store(self, name: str, row: Tensor) -> None:
        path = self._path(name)
        if path is None or not self._writable:
            return
        payload = row.numpy().astype("<f4").tobytes()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(path) as part:
                part.write_bytes(self._digest(name, payload) + payload)
                keep_ours(part)
        except OSError as error:
            self._writable = False
            _logger.warning("text rows are not kept for the next start: cannot write to %s: %s", path.parent, error)

    def _path(self, name: str) -> Path | None:
        return self._cache_dir and self._cache_dir / "text" / f"{self._digest(name).hex()}.row"

    def _digest(self, name: str, payload: bytes = b"") -> bytes:
        """Binds a file to its tower, templates and name; damage and mix-ups change it."""
        return hashlib.sha256(json.dumps([self._identity, name]).encode() + payload).digest()


class TextEncoder:
    """Prompts -> embeddings with a text tower that is in memory only while there are words to encode.

    May be used from several threads; they take turns.
    """

    def __init__(
        self,
        load_tower: Callable[[], TextTower],
        device: torch.device | str = "cpu",
        release_after: float = _RELEASE_AFTER,
    ) -> None:
        """Loads nothing yet.

        Args:
            load_tower: Gives the tower; called again for words that come after the tower was released.
            device: Where the tower runs.
            release_after: Seconds after the last prompt at which the tower is released.
        """
        self._load_tower = load_tower
        self._device = device
        self._release_after = release_after
        self._tower: TextTower | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self, prompts: list[str]) -> Tensor:
        """Embeds N prompts as float32 `(N, D)` on the CPU, not normalized."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._tower is None:
                self._tower = _for_device(self._load_tower(), self._device)
            try:
                return _encode(self._tower, prompts, self._device)
            finally:
                self._timer = threading.Timer(self._release_after, self._release)
                self._timer.daemon = True
                self._timer.start()

    def _release(self) -> None:
        with self._lock:
            # A timer that fires while a later call waits for the lock has been replaced by then.
            if threading.current_thread() is self._timer:
                self._tower = self._timer = None


def prompts_for(names: Iterable[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """All prompts of all names: name by name, template by template."""
    return [template.format(name) for name in names for template in templates]


def tokenize(prompts: Iterable[str]) -> Tensor:
    """Turns prompts into CLIP's tokens.

    Args:
        prompts: N texts. One that is longer than CLIP reads is cut, which the log says.

    Returns:
        int64 `(N, L)`: start token, text, end token, zeros; L is the longest prompt's length, at most 77.
    """
    rows = [torch.tensor(row) for row in _token_rows(list(prompts))]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _token_rows(prompts: list[str]) -> list[list[int]]:
    """Start token, text and end token of each prompt."""
    texts = [_tokenizer().encode(prompt) for prompt in prompts]
    cut = [prompt for prompt, text in zip(prompts, texts, strict=True) if len(text) > _TEXT_LENGTH]
    if cut:
        what = f"{len(cut)} of {len(prompts)} prompts, the first being {cut[0][:80]!r}"
        _logger.warning("CLIP reads %d tokens; what comes after them does not count in %s", CONTEXT_LENGTH, what)
    start, end = _tokenizer().sot_token_id, _tokenizer().eot_token_id
    return [[start, *text[:_TEXT_LENGTH], end] for text in texts]


def is_cut(name: str) -> bool:
    """Tells whether a name is so long that CLIP does not read all of its prompts to the end."""
    return any(len(_tokenizer().encode(prompt)) > _TEXT_LENGTH for prompt in prompts_for([name]))


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@functools.cache
def _tokenizer_digest() -> str:
    """Identity of the list of byte pairs that words are cut by."""
    return hashlib.sha256(Path(default_bpe()).read_bytes()).hexdigest()


def _template_mean(names: list[str], embeddings: Tensor) -> Tensor:
    """Rows `(N, D)` of N names from the embeddings `(T N, D)` of their prompts."""
    units = torch.nn.functional.normalize(embeddings.float().cpu(), dim=-1)
    rows = torch.nn.functional.normalize(units.unflatten(0, (len(names), -1)).mean(1), dim=-1)
    # A vector without length stays without length.
    unusable = [name for name, row in zip(names, rows, strict=True) if not 0.5 < row.norm() < 2.0]
    if unusable:
        raise CheckpointError(
            f"the text tower gives no usable numbers for {unusable[0]!r}; its weights are damaged: load or download "
            "the checkpoint again"
        )
    return rows


@torch.no_grad()
def _for_device(tower: TextTower, device: torch.device | str) -> TextTower:
    """The tower on its device, in the fastest form that gives its answer there."""
    tower = tower.to(device)
    if torch.device(device).type != "cpu":
        return tower
    try:
        fused = text_tower_for_processor(tower)
        probe = TokenTree.of(_token_rows([TEMPLATES[0].format("cup")]))
        torch.testing.assert_close(fused.read(probe), tower.read(probe), rtol=1e-3, atol=1e-4)
    except (BackendError, RuntimeError, AssertionError) as error:
        _logger.warning("words are encoded without oneDNN's fused products, half as fast: %s", error)
        return tower
    return fused


@torch.no_grad()
def _encode(tower: TextTower, prompts: list[str], device: torch.device | str) -> Tensor:
    """Embeds prompts, those that stand together as one tree."""
    embeddings = []
    for group in in_groups(_token_rows(prompts), _TREE):
        embeddings.append(tower.read(TokenTree.of(group).to(device)).float().cpu())
    return torch.cat(embeddings)
