"""The available weights: published models with accuracy, files and licenses; bundled and seeded checkpoints.

FC-CLIP: numbers, links and license are from the authors' repository, https://github.com/bytedance/fc-clip (README at
revision 2b0bbe2; ConvNeXt-L is the model of the paper's Table 1, the ResNets are those of Table 11). All were trained
on COCO panoptic with CLIP frozen. OVRCOAT and MAFT+, which train CLIP too: from https://github.com/nickormushev/OVRCOAT
(README at revision 9fd9450) and https://github.com/jiaosiyu1999/MAFT-Plus (README at revision fd12806).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.resources import config_path
from fcclip_core.model.config import PRESETS

RECIPE_PREFIX = "recipe:"
"""Prefix of the names of seeded checkpoints, followed by a preset's name (`seeded_weights`)."""
DEMO = "demo"
"""The bundled checkpoint, a small model trained on the simulated world."""
EVERYDAY = "everyday"
"""Bundled vocabulary of common objects, used as distractors for short lists of words."""
AUTHORS = "https://github.com/bytedance/fc-clip"
TRAINED_ON = "coco_panoptic"
"""Bundled vocabulary with the training classes of FC-CLIP's models, and of most others."""
OVRCOAT = "ovrcoat"
"""Key of OVRCOAT."""
LICENSE = "Apache-2.0 (the authors' repository; the files carry no license of their own)"
MAFT_PLUS_LICENSE = "MIT (the authors' repository; the files carry no license of their own)"
OPENAI_LICENSE = "MIT (OpenAI CLIP)"
LAION_LICENSE = "MIT (LAION OpenCLIP)"


@dataclass(frozen=True)
class Scores:
    """Results on one dataset, in per cent; None if not reported.

    Attributes:
        pq: Panoptic quality.
        ap: Mask average precision.
        miou: Mean intersection over union.
    """

    miou: float | None = None
    pq: float | None = None
    ap: float | None = None


NOT_REPORTED = Scores()


@dataclass(frozen=True)
class PublishedModel:
    """One published checkpoint.

    Attributes:
        key: Our name: `fcclip weights install` takes it, and as a checkpoint it is the installed model.
        name: The authors' name.
        preset: Its configuration, a name in `PRESETS`.
        url: The authors' download page.
        file_name: The file's name, if known.
        ade20k: ADE20K, 150 classes, zero-shot.
        cityscapes: Cityscapes, zero-shot.
        mapillary: Mapillary Vistas, zero-shot.
        ade20k_full: ADE20K, 847 classes, zero-shot.
        pascal_context_59: Pascal Context, 59 classes, zero-shot.
        pascal_context_459: Pascal Context, 459 classes, zero-shot.
        pascal_voc_21: Pascal VOC with background, zero-shot.
        pascal_voc_20: Pascal VOC without background, zero-shot.
        coco: COCO panoptic, the training dataset.
        license: License of the file.
        clip_license: License of its CLIP weights.
        trained_on: Bundled vocabulary with its training classes.
        sha256: SHA-256 of the file, hexadecimal; empty if unknown.
        is_fine_tuned: Whether CLIP was trained too, so that the file contains it.
        note: What else to know of its numbers; empty if nothing.
        is_complete: Whether the published inference is computed here in full; if not, the numbers do not hold.
    """

    key: str
    name: str
    preset: str
    url: str
    file_name: str | None
    ade20k: Scores
    cityscapes: Scores = NOT_REPORTED
    mapillary: Scores = NOT_REPORTED
    ade20k_full: Scores = NOT_REPORTED
    pascal_context_59: Scores = NOT_REPORTED
    pascal_context_459: Scores = NOT_REPORTED
    pascal_voc_21: Scores = NOT_REPORTED
    pascal_voc_20: Scores = NOT_REPORTED
    coco: Scores = NOT_REPORTED
    license: str = LICENSE
    clip_license: str = OPENAI_LICENSE
    trained_on: str = TRAINED_ON
    sha256: str = ""
    is_fine_tuned: bool = False
    note: str = ""
    is_complete: bool = True

    @property
    def download_name(self) -> str:
        """The name of the downloaded file: the authors', if known."""
        return self.file_name or f"{self.key}.pth"

    @property
    def clip(self) -> str:
        """Where CLIP's weights come from: the file, or open_clip under this name and tag."""
        config = PRESETS[self.preset]
        if self.is_fine_tuned:
            return "in the file, trained too"
        return f"open_clip {config.open_clip_name} {config.open_clip_tag}"


def _model(
    preset: str, scores: str, file_id: str, file_name: str | None = None, clip_license: str = OPENAI_LICENSE
) -> PublishedModel:
    """One row of the authors' table; `scores` has its columns (see `PUBLISHED_MODELS`)."""
    tower = preset.replace("convnext_l", "ConvNeXt-L").replace("rn", "ResNet")
    values = [float(value) for value in scores.split()]
    return PublishedModel(
        key=preset,
        name=f"FC-CLIP ({tower})",
        preset=preset,
        url=f"https://drive.google.com/file/d/{file_id}/view",
        file_name=file_name,
        ade20k=Scores(pq=values[0], ap=values[1], miou=values[2]),
        cityscapes=Scores(pq=values[3], ap=values[4], miou=values[5]),
        mapillary=Scores(pq=values[6], miou=values[7]),
        ade20k_full=Scores(values[8]),
        pascal_context_59=Scores(values[9]),
        pascal_context_459=Scores(values[10]),
        pascal_voc_21=Scores(values[11]),
        pascal_voc_20=Scores(values[12]),
        coco=Scores(pq=values[13], ap=values[14], miou=values[15]),
        clip_license=clip_license,
    )


# ADE20K PQ AP mIoU, Cityscapes PQ AP mIoU, Mapillary PQ mIoU, mIoU of ADE20K-847, Context-59 and -459, VOC-21 and -20,
# COCO PQ AP mIoU.
FC_CLIP = (
    _model(
        "convnext_large",
        "26.8 16.8 34.1 44.0 26.8 56.2 18.3 27.8 14.8 58.4 18.2 81.8 95.4 54.4 44.6 63.7",
        "1-91PIns86vyNaL3CzMmDD39zKGnPMtvj",
        "fcclip_cocopan.pth",
        LAION_LICENSE,
    ),
    _model(
        "rn50",
        "17.9 9.5 23.3 40.3 21.6 53.2 15.9 24.4 7.1 50.5 12.9 75.9 89.5 50.7 40.7 58.8",
        "1tcB-8FNON-LwckXQbUyKcBA2G7TU65Zh",
        "fcclip_cocopan_r50.pth",
    ),
    _model(
        "rn101",
        "19.1 10.2 24.0 40.9 24.1 53.9 16.7 23.2 7.7 48.9 12.3 77.6 91.3 51.4 41.6 58.9",
        "1P0mdgftReWzVbPQ0O0CSBfW3krHhTOj0",
    ),
    _model(
        "rn50x4",
        "21.8 11.7 26.8 42.2 23.8 54.6 17.4 24.6 8.7 54.0 13.1 79.0 92.9 52.1 42.8 60.4",
        "1nUpUsNUE22eOV9skxv9IyIkmCbg5jrIF",
    ),
    _model(
        "rn50x16",
        "22.5 13.6 29.4 42.0 25.6 56.0 17.8 26.1 10.3 56.4 15.7 80.7 94.5 54.4 45.0 63.3",
        "1rJu2UwwtI0VLDl9CyB8Mkgw9qHlnX70W",
    ),
    _model(
        "rn50x64",
        "22.8 13.6 28.4 42.7 27.4 55.1 18.2 27.3 10.8 55.7 16.2 80.3 95.1 55.6 46.4 65.3",
        "1rvfFVp5p3PZQsHp2NGVEBeYYcqgVVaZX",
    ),
)
_MAFT_PLUS_NOTE = (
    "the numbers are with MAFT+'s content-dependent transfer, which is not computed here; set alpha and beta to 1, "
    "as its authors classify with CLIP alone"
)


def _maft_plus(
    name: str, about: str, preset: str, scores: str, file_id: str, trained_on: str = "coco_stuff"
) -> PublishedModel:
    """One of MAFT+'s files; `scores`: mIoU of ADE20K, ADE20K-847, Context-459, Context-59 and VOC-20, or none."""
    reported = [Scores(float(value)) for value in scores.split()] or [NOT_REPORTED] * 5
    return PublishedModel(
        key=f"maftp_{name}",
        name=f"MAFT+ (ConvNeXt-{about})",
        preset=preset,
        url=f"https://drive.google.com/file/d/{file_id}/view",
        file_name=f"maftp_{name}.pth",
        ade20k=reported[0],
        ade20k_full=reported[1],
        pascal_context_459=reported[2],
        pascal_context_59=reported[3],
        pascal_voc_20=reported[4],
        license=MAFT_PLUS_LICENSE,
        clip_license=LAION_LICENSE,
        trained_on=trained_on,
        is_fine_tuned=True,
        note=_MAFT_PLUS_NOTE,
        is_complete=False,
    )


# MAFT+'s own repository reports PQ on ADE20K only; its other numbers are those that OVRCOAT's authors measured.
FINE_TUNED = (
    PublishedModel(
        key=OVRCOAT,
        name="OVRCOAT (ConvNeXt-L)",
        preset="convnext_large",
        url="https://drive.google.com/file/d/1raLz9TybKGxMCsWVjjdoBnbraUXDgmQ0/view",
        file_name="ovrcoat.pth",
        ade20k=Scores(pq=28.6),
        cityscapes=Scores(pq=45.3),
        mapillary=Scores(pq=19.6),
        coco=Scores(pq=54.6),
        license=LICENSE,
        clip_license=LAION_LICENSE,
        is_fine_tuned=True,
        note="the numbers are with clip_trust 0.5, which is 0 by default here",
    ),
    replace(
        _maft_plus("l_pano", "L, panoptic", "maft_plus_large", "", "1znk_uco8fwvbA0kndy4kGyVp22KbQr6g", TRAINED_ON),
        ade20k=Scores(pq=27.1),
        cityscapes=Scores(pq=38.3),
        mapillary=Scores(pq=15.7),
        coco=Scores(pq=50.3),
    ),
    _maft_plus("l", "L, semantic", "maft_plus_large", "36.1 15.1 21.6 59.4 96.5", "1EQo5guVuKkSSZj4bv0FQN_4X9h_Rwfe5"),
    _maft_plus("b", "B, semantic", "maft_plus_base", "34.6 13.8 16.2 57.5 95.4", "1BeEeKOnWWIWIH-QWK_zLhAPUzCOnHuFG"),
)
PUBLISHED_MODELS = FC_CLIP + FINE_TUNED


@dataclass(frozen=True)
class FurtherScores:
    """What the paper reports of its main model beyond the authors' table; None if not reported.

    Attributes:
        sq: Segmentation quality in per cent.
        rq: Recognition quality in per cent.
        grounding_pq: PQ with each image's own classes as the only words, in per cent (Table 7).
        grounding_miou: mIoU likewise.
        fps: Images per second on one V100, mean over the validation set, with all postprocessing (Table 4).
    """

    sq: float | None = None
    rq: float | None = None
    grounding_pq: float | None = None
    grounding_miou: float | None = None
    fps: float | None = None


MAIN_PRESET = "convnext_large"
"""The paper's main model."""

FURTHER_SCORES: Mapping[str, FurtherScores] = {
    "ade20k": FurtherScores(71.6, 32.3, 38.4, 54.1, 2.71),
    "cityscapes": FurtherScores(75.4, 53.6, 48.1),
    "mapillary": FurtherScores(57.7, 22.9, 21.5),
    "ade20k_full": FurtherScores(grounding_miou=33.4),
    "pascal_context_59": FurtherScores(grounding_miou=74.9),
    "pascal_context_459": FurtherScores(grounding_miou=41.2),
    "pascal_voc_21": FurtherScores(grounding_miou=88.7),
    "pascal_voc_20": FurtherScores(grounding_miou=98.5),
    "coco": FurtherScores(83.0, 64.8, fps=2.76),
}
"""Dataset, as in `PublishedModel` -> Tables 2, 4 and 7 of arXiv 2308.02487; SQ and RQ of ADE20K and COCO are from the
authors' `logs/testing/`."""


def published_as(file_name: str) -> PublishedModel | None:
    """The published model with this file name; None if unknown."""
    return next((model for model in PUBLISHED_MODELS if model.download_name == file_name), None)


def model_named(key: str) -> PublishedModel | None:
    """The published model with this key; None if unknown."""
    return next((model for model in PUBLISHED_MODELS if model.key == key), None)


def published_from(origins: Iterable[str], preset: str) -> PublishedModel | None:
    """The published model of a preset that weights are, which come from these addresses; None if unknown.

    Weights of an unknown origin are taken for FC-CLIP's, whose keys are the names of its presets.
    """
    origins = set(origins)
    known = next((model for model in PUBLISHED_MODELS if model.preset == preset and model.url in origins), None)
    return known or model_named(preset)


def models_folder() -> Path | None:
    """The folder in which `fcclip weights` puts published models, or links to models stored elsewhere.

    Returns:
        $XDG_DATA_HOME/fcclip_ros/models, else ~/.local/share/fcclip_ros/models; None if the user has no home folder.
    """
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = Path(os.path.expanduser(shared))
    return folder / "fcclip_ros" / "models" if folder.is_absolute() else None


def imported_models() -> Mapping[str, Path]:
    """Key -> file of the imported published models, most accurate first (PQ on ADE20K), incomplete ones last."""
    folder = models_folder()
    best_first = sorted(PUBLISHED_MODELS, key=lambda model: (model.is_complete, model.ade20k.pq or 0.0), reverse=True)
    files = {model.key: folder / f"{model.key}.safetensors" for model in best_first} if folder else {}
    return {key: path for key, path in files.items() if os.path.exists(path)}


def remember_import(path: Path, key: str) -> str:
    """Registers a published model imported to `path`, so that `auto` and its key find it.

    Returns:
        Why it cannot be registered; empty on success.
    """
    folder = models_folder()
    if folder is None:
        return "this user has no home folder; set XDG_DATA_HOME to a folder for models"
    link = folder / f"{key}.safetensors"
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
    """The warning if `auto` found only the bundled demo, which was trained on `classes` classes."""
    best = PUBLISHED_MODELS[0]
    return (
        f"checkpoint auto: no published model was imported on this machine, so the bundled {DEMO} is used: a small "
        f"model that knows {classes} classes of the simulated world (balls, boxes, cones, floors, walls) and little "
        f"else. For {best.name}, run: fcclip weights install {best.key}"
    )


def bundled_checkpoints() -> Mapping[str, Path]:
    """Name -> file of the bundled checkpoints, in alphabetical order."""
    return {path.stem: path for path in sorted(config_path("checkpoints").glob("*.safetensors"))}
