"""Installs published models: downloads, checks, joins with CLIP, and puts them where their names are looked up."""

from __future__ import annotations

import difflib
import zipfile
from functools import partial
from pathlib import Path

from fcclip_core.errors import CheckpointError
from fcclip_core.quoting import short_name
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.weights.checkpoints import Checkpoint, check_published, load_checkpoint, save_checkpoint
from fcclip_core.weights.download import Progress, download
from fcclip_core.weights.model_zoo import PUBLISHED_MODELS, PublishedModel, model_named, models_folder
from fcclip_core.weights.weight_files import read_weight_file, sha256_of

DOWNLOADS = "downloads"
"""Folder for downloads below that of the models; a download is removed once it is installed."""


def install(
    model: PublishedModel,
    *,
    clip: Path | None = None,
    sha256: str = "",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> tuple[Path, Checkpoint]:
    """Installs a published model; an installed one is replaced.

    Args:
        model: The model.
        clip: File with CLIP's weights, if the published file has none; None: open_clip's.
        sha256: SHA-256 that the published file must have, hexadecimal; empty: the known one, if any.
        dtype: See `save_checkpoint`.
        progress: Reports downloading, hashing and writing, in bytes.

    Returns:
        The installed file, and its content.

    Raises:
        CheckpointError: It cannot be downloaded, or is not the published model, or cannot be written. Nothing is
            installed then, and a whole download is kept for the next call.
    """
    place = place_for(model.key)
    file = _made(place.parent / DOWNLOADS) / model.download_name
    sha256 = sha256 or model.sha256
    if not file.is_file() or (sha256 and sha256_of(file) != sha256.lower()):
        download(model.url, file, sha256=sha256, check=partial(_check, model), progress=progress)
    checkpoint = load_checkpoint(file, clip, preset=model.preset, progress=progress)
    save_checkpoint(place, checkpoint, dtype=dtype, progress=progress)
    file.unlink(missing_ok=True)
    return place, checkpoint


def require_model(key: str) -> PublishedModel:
    """The published model with this key.

    Raises:
        CheckpointError: There is none; names those that there are.
    """
    if model := model_named(key):
        return model
    keys = [model.key for model in PUBLISHED_MODELS]
    close = difflib.get_close_matches(key, keys, n=1)
    raise CheckpointError(
        f"no published model is called {short_name(key)!r}{f'; did you mean {close[0]}?' if close else ''}; there are "
        f"{', '.join(keys)} (`fcclip weights list`)"
    )


def place_for(key: str) -> Path:
    """Where the model with this key is installed; its folder is made.

    Raises:
        CheckpointError: There is no such place.
    """
    folder = models_folder()
    if folder is None:
        raise CheckpointError(
            "this user has no home folder to put models in; set XDG_DATA_HOME, or import a file and name the output: "
            "fcclip weights import FILE -o OUT.safetensors"
        )
    return _made(folder) / f"{key}.safetensors"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be made ({error.strerror or error}); set XDG_DATA_HOME to a folder that can be written, "
            "or import a file and name the output: fcclip weights import FILE -o OUT.safetensors"
        ) from error
    return folder


def _check(model: PublishedModel, path: Path) -> None:
    """Checks a download's keys, and the checksums that torch's archives hold.

    Raises:
        CheckpointError: It is damaged, or not the published model.
    """
    check_published(read_weight_file(path), Vocabulary.load(model.trained_on), model.preset)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of its member {short_name(damaged)} is wrong")
