"""Which weights there are: the published FC-CLIP models, the bundled checkpoints, the seeded ones.

Of the published models: their accuracy in the authors' table, where their files are, on which terms.

Numbers, links and license are those of the authors' repository, https://github.com/bytedance/fc-clip (README at
revision 2b0bbe2; ConvNeXt-L is the model of the paper's Table 1, the ResNets are Table 11's). All were trained on COCO
panoptic, CLIP frozen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.resources import config_path
from fcclip_core.model.config import PRESETS

RECIPE_PREFIX = "recipe:"
"""With a preset's name behind it, names a checkpoint that is made from a rule (`seeded_weights`)."""
DEMO = "demo"
"""The bundled checkpoint, a small model of the simulated world."""
EVERYDAY = "everyday"
"""Bundled vocabulary of what stands about where robots work: it competes with short lists of words."""
AUTHORS = "https://github.com/bytedance/fc-clip"
TRAINED_ON = "coco_panoptic"
"""Bundled vocabulary with the classes that all of them were trained on."""
LICENSE = "Apache-2.0 (the authors' repository; the files carry no license of their own)"
OPENAI_LICENSE = "MIT (OpenAI CLIP)"
LAION_LICENSE = "MIT (LAION OpenCLIP)"


@dataclass(frozen=True)
class Scores:
    """Results on one dataset, in per cent; None where the authors report nothing.

    Attributes:
        pq: Panoptic quality.
        ap: Mask average precision.
        miou: Mean intersection over union.
    """

    miou: float
    pq: float | None = None
    ap: float | None = None


@dataclass(frozen=True)
class PublishedModel:
    """One published checkpoint.

    Attributes:
        name: What the authors call it.
        preset: The configuration that it fits, a name in `PRESETS`.
        url: The authors' download page.
        file_name: The file's name, where it is known; the link tells it otherwise.
        ade20k: ADE20K, 150 classes, zero-shot.
        cityscapes: Cityscapes, zero-shot.
        mapillary: Mapillary Vistas, zero-shot.
        ade20k_full: ADE20K, 847 classes, zero-shot.
        pascal_context_59: Pascal Context, 59 classes, zero-shot.
        pascal_context_459: Pascal Context, 459 classes, zero-shot.
        pascal_voc_21: Pascal VOC with background, zero-shot.
        pascal_voc_20: Pascal VOC without background, zero-shot.
        coco: COCO panoptic, the training dataset.
        license: Terms of the FC-CLIP file.
        clip_license: Terms of the CLIP weights that go with it.
    """

    name: str
    preset: str
    url: str
    file_name: str | None
    ade20k: Scores
    cityscapes: Scores
    mapillary: Scores
    ade20k_full: Scores
    pascal_context_59: Scores
    pascal_context_459: Scores
    pascal_voc_21: Scores
    pascal_voc_20: Scores
    coco: Scores
    license: str = LICENSE
    clip_license: str = OPENAI_LICENSE

    @property
    def clip(self) -> str:
        """open_clip's name and tag of the CLIP weights that the file leaves out."""
        config = PRESETS[self.preset]
        return f"{config.open_clip_name} {config.open_clip_tag}"


def _drive(file_id: str) -> str:
    return f"https://drive.google.com/file/d/{file_id}/view"


PUBLISHED_MODELS = (
    PublishedModel(
        name="FC-CLIP (ConvNeXt-Large)",
        preset="convnext_large",
        url=_drive("1-91PIns86vyNaL3CzMmDD39zKGnPMtvj"),
        file_name="fcclip_cocopan.pth",
        ade20k=Scores(pq=26.8, ap=16.8, miou=34.1),
        cityscapes=Scores(pq=44.0, ap=26.8, miou=56.2),
        mapillary=Scores(pq=18.3, miou=27.8),
        ade20k_full=Scores(miou=14.8),
        pascal_context_59=Scores(miou=58.4),
        pascal_context_459=Scores(miou=18.2),
        pascal_voc_21=Scores(miou=81.8),
        pascal_voc_20=Scores(miou=95.4),
        coco=Scores(pq=54.4, ap=44.6, miou=63.7),
        clip_license=LAION_LICENSE,
    ),
    PublishedModel(
        name="FC-CLIP (ResNet50)",
        preset="rn50",
        url=_drive("1tcB-8FNON-LwckXQbUyKcBA2G7TU65Zh"),
        file_name="fcclip_cocopan_r50.pth",
        ade20k=Scores(pq=17.9, ap=9.5, miou=23.3),
        cityscapes=Scores(pq=40.3, ap=21.6, miou=53.2),
        mapillary=Scores(pq=15.9, miou=24.4),
        ade20k_full=Scores(miou=7.1),
        pascal_context_59=Scores(miou=50.5),
        pascal_context_459=Scores(miou=12.9),
        pascal_voc_21=Scores(miou=75.9),
        pascal_voc_20=Scores(miou=89.5),
        coco=Scores(pq=50.7, ap=40.7, miou=58.8),
    ),
    PublishedModel(
        name="FC-CLIP (ResNet101)",
        preset="rn101",
        url=_drive("1P0mdgftReWzVbPQ0O0CSBfW3krHhTOj0"),
        file_name=None,
        ade20k=Scores(pq=19.1, ap=10.2, miou=24.0),
        cityscapes=Scores(pq=40.9, ap=24.1, miou=53.9),
        mapillary=Scores(pq=16.7, miou=23.2),
        ade20k_full=Scores(miou=7.7),
        pascal_context_59=Scores(miou=48.9),
        pascal_context_459=Scores(miou=12.3),
        pascal_voc_21=Scores(miou=77.6),
        pascal_voc_20=Scores(miou=91.3),
        coco=Scores(pq=51.4, ap=41.6, miou=58.9),
    ),
    PublishedModel(
        name="FC-CLIP (ResNet50x4)",
        preset="rn50x4",
        url=_drive("1nUpUsNUE22eOV9skxv9IyIkmCbg5jrIF"),
        file_name=None,
        ade20k=Scores(pq=21.8, ap=11.7, miou=26.8),
        cityscapes=Scores(pq=42.2, ap=23.8, miou=54.6),
        mapillary=Scores(pq=17.4, miou=24.6),
        ade20k_full=Scores(miou=8.7),
        pascal_context_59=Scores(miou=54.0),
        pascal_context_459=Scores(miou=13.1),
        pascal_voc_21=Scores(miou=79.0),
        pascal_voc_20=Scores(miou=92.9),
        coco=Scores(pq=52.1, ap=42.8, miou=60.4),
    ),
    PublishedModel(
        name="FC-CLIP (ResNet50x16)",
        preset="rn50x16",
        url=_drive("1rJu2UwwtI0VLDl9CyB8Mkgw9qHlnX70W"),
        file_name=None,
        ade20k=Scores(pq=22.5, ap=13.6, miou=29.4),
        cityscapes=Scores(pq=42.0, ap=25.6, miou=56.0),
        mapillary=Scores(pq=17.8, miou=26.1),
        ade20k_full=Scores(miou=10.3),
        pascal_context_59=Scores(miou=56.4),
        pascal_context_459=Scores(miou=15.7),
        pascal_voc_21=Scores(miou=80.7),
        pascal_voc_20=Scores(miou=94.5),
        coco=Scores(pq=54.4, ap=45.0, miou=63.3),
    ),
    PublishedModel(
        name="FC-CLIP (ResNet50x64)",
        preset="rn50x64",
        url=_drive("1rvfFVp5p3PZQsHp2NGVEBeYYcqgVVaZX"),
        file_name=None,
        ade20k=Scores(pq=22.8, ap=13.6, miou=28.4),
        cityscapes=Scores(pq=42.7, ap=27.4, miou=55.1),
        mapillary=Scores(pq=18.2, miou=27.3),
        ade20k_full=Scores(miou=10.8),
        pascal_context_59=Scores(miou=55.7),
        pascal_context_459=Scores(miou=16.2),
        pascal_voc_21=Scores(miou=80.3),
        pascal_voc_20=Scores(miou=95.1),
        coco=Scores(pq=55.6, ap=46.4, miou=65.3),
    ),
)


def published_as(file_name: str) -> PublishedModel | None:
    """The published model whose file has this name; None if no file of that name is known."""
    return next((model for model in PUBLISHED_MODELS if model.file_name == file_name), None)


def models_folder() -> Path | None:
    """Where `fcclip weights import` puts models, or links to those that it wrote elsewhere.

    Returns:
        $XDG_DATA_HOME/fcclip_ros/models, else ~/.local/share/fcclip_ros/models; None for a user without a home.
    """
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = Path(os.path.expanduser(shared))
    return folder / "fcclip_ros" / "models" if folder.is_absolute() else None


def imported_models() -> tuple[Path, ...]:
    """Files of the published models that were imported on this machine, the most accurate first (ADE20K, PQ)."""
    folder = models_folder()
    best_first = sorted(PUBLISHED_MODELS, key=lambda model: model.ade20k.pq or 0.0, reverse=True)
    files = [folder / f"{model.preset}.safetensors" for model in best_first] if folder else []
    return tuple(path for path in files if os.path.exists(path))


def remember_import(path: Path, preset: str) -> str:
    """Has `auto` find a published model that was imported to `path`.

    Returns:
        Why it will not; empty if it will.
    """
    folder = models_folder()
    if folder is None:
        return "this user has no home folder; set XDG_DATA_HOME to a folder where models are kept"
    link = folder / f"{preset}.safetensors"
    if os.path.realpath(link) == os.path.realpath(path):
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(link) as part:
            part.symlink_to(path.absolute())
    except OSError as error:
        return f"{link} cannot be written: {error.strerror or error}"
    return ""


def nothing_imported(classes: int) -> str:
    """What to know where `auto` has found nothing but the bundled demo, which was trained on so many classes."""
    best = PUBLISHED_MODELS[0]
    return (
        f"checkpoint auto: no published model was imported on this machine, so the bundled {DEMO} is used: a small "
        f"model that knows {classes} classes of the simulated world (balls, boxes, cones, floors, walls) and little "
        f"else. For {best.name}, fetch {best.file_name} from {best.url}, then: fcclip weights import {best.file_name}"
    )


def bundled_checkpoints() -> Mapping[str, Path]:
    """Name -> file of the checkpoints that come with the package, in alphabetical order."""
    return {path.stem: path for path in sorted(config_path("checkpoints").glob("*.safetensors"))}
