"""Images in one folder a class, as ImageNet's validation set is usually kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcclip_core.errors import DatasetError
from fcclip_core.quoting import short, short_name

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class ClassFolders:
    """Files with their classes, sorted by folder and name.

    Attributes:
        root: The folder that holds the folders.
        files: The images.
        labels: The class index of each.
        class_names: The words of all classes, those without a folder too.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    @classmethod
    def open(cls, root: Path, names: Sequence[str], ids: Sequence[str] = ()) -> ClassFolders:
        """Lists the images below a folder.

        Args:
            root: A folder with one folder for each class; not every class needs one. Hidden folders do not count.
            names: The words of all classes, in the order of class indices.
            ids: Their ids, such as WordNet's "n01440764"; a folder is named by one of the two. Empty: names alone.

        Raises:
            DatasetError: There is no such folder, or it does not have this layout; says what was expected.
        """
        try:
            entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise DatasetError(f"{root} cannot be read: {error.strerror or error}") from error
        folders = [path for path in entries if path.is_dir()]
        if not folders:
            images = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in entries)
            raise DatasetError(
                f"{root} has no folders of classes but {images} images; expected one folder for each class, named by "
                f"its id or name{_example(names, ids)}"
            )
        known = _known(names, ids)
        files: list[Path] = []
        labels: list[int] = []
        for folder in folders:
            label = _label(folder, known, names, ids)
            found = _images(folder)
            files += found
            labels += [label] * len(found)
        if not files:
            raise DatasetError(f"the folders of classes in {root} hold no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return cls(root, tuple(files), tuple(labels), tuple(names))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)


def imagenet(data: Path, split: str = "val") -> ClassFolders:
    """ImageNet-1k's folder of class folders: DATA/SPLIT, or DATA where it has no such folder.

    Class names are open_clip's, ids those of WordNet as ILSVRC uses them.

    Raises:
        DatasetError: As `ClassFolders.open`.
    """
    import open_clip
    from timm.data import ImageNetInfo

    root = data / split if (data / split).is_dir() else data
    return ClassFolders.open(root, open_clip.IMAGENET_CLASSNAMES, ImageNetInfo().label_names())


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, sorted by path.

    Raises:
        DatasetError: It is no folder, or holds none.
    """
    found = _images(folder)
    if not found:
        raise DatasetError(f"{folder} holds no images; expected a folder with {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _known(names: Sequence[str], ids: Sequence[str]) -> dict[str, list[int]]:
    known: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        known.setdefault(_plain(name), []).append(index)
    for index, key in enumerate(ids):
        known[_plain(key)] = [index]
    return known


def _label(folder: Path, known: Mapping[str, list[int]], names: Sequence[str], ids: Sequence[str]) -> int:
    found = known.get(_plain(folder.name), [])
    if len(found) == 1:
        return found[0]
    if found:
        which = " or ".join(ids[index] for index in found) if ids else "another name"
        raise DatasetError(f"{folder}: {len(found)} classes are called {short(folder.name)}; name the folder {which}")
    raise DatasetError(
        f"{folder}: {short(folder.name)} is no class; expected a folder for each class, named by its id or name"
        f"{_example(names, ids)}"
    )


def _plain(name: str) -> str:
    """A name as folders spell it: without case, and with spaces for underscores and slashes."""
    return " ".join(name.casefold().replace("_", " ").replace("/", " ").split())


def _example(names: Sequence[str], ids: Sequence[str]) -> str:
    shown = [*ids[:1], *names[:1]]
    return f", such as {' or '.join(map(short_name, shown))}" if shown else ""
