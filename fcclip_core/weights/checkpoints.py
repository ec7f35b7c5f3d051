"""Weight files -> `Checkpoint` -> network, and back into one self-contained file.

Every key is checked on loading. The network is built on the meta device and the file's memory-mapped tensors are
assigned to it, so a full-size model is read and stored only once.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fcclip_core.devices import undisturbed
from fcclip_core.errors import CheckpointError, SettingsError
from fcclip_core.files.paths import expanded
from fcclip_core.model.config import PRESETS, ModelConfig
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.stored_config import config_from_dict, layer_counts
from fcclip_core.model.text_tower import TextTower
from fcclip_core.quoting import first_line, short, short_name
from fcclip_core.settings import AUTO, PUBLISHED, VANISHED_MASKS
from fcclip_core.vocabulary.classes import Vocabulary, require_vocabulary
from fcclip_core.weights.clip_weights import ClipWeights, fitting_preset, load_clip
from fcclip_core.weights.fine_tuned import OVRCOAT_COPY, further_entries
from fcclip_core.weights.model_zoo import (
    DEMO,
    OVRCOAT,
    PUBLISHED_MODELS,
    RECIPE_PREFIX,
    TRAINED_ON,
    bundled_checkpoints,
    imported_models,
    model_named,
    nothing_imported,
    published_as,
)
from fcclip_core.weights.published_layout import EMPTY_WEIGHT, VISUAL_PREFIX, Entry, layout_of
from fcclip_core.weights.published_names import CLIP_PREFIX
from fcclip_core.weights.seeded_weights import seeded_state
from fcclip_core.weights.weight_files import WeightFile, read_weight_file, sha256_of, write_safetensors

_logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 stored the fields of both decoders beside all others."""
METADATA_KEY = "fcclip"
STORED_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SPELLED_OUT = 10
"""Number of keys of each kind that an error lists; it counts the rest."""

_MAX_SOURCES = 100
_MAX_TEXT_LENGTH = 2000

Progress = Callable[[str, int, int], None]
"""Called with (name of the task, units done, total units)."""


@dataclass(frozen=True)
class Source:
    """One source file of a checkpoint.

    Attributes:
        role: Its content: "FC-CLIP weights" or "CLIP weights".
        name: File name, without its folder.
        sha256: SHA-256 of the file, hexadecimal; empty if not computed.
        origin: Where the file is published; empty if unknown.
        path: Path on this machine; not stored.
    """

    role: str
    name: str
    sha256: str = ""
    origin: str = ""
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Provenance:
    """Origin and license of weights.

    Attributes:
        sources: The source files, in the order in which they were combined.
        license: License of the weights; empty if unknown.
        seeded: True for seeded random weights, whose labels are meaningless.
        note: Any other information, one sentence.
    """

    sources: tuple[Source, ...] = ()
    license: str = ""
    seeded: bool = False
    note: str = ""

    def describe(self) -> str:
        """A human-readable line."""
        files = " + ".join(source.name for source in self.sources)
        return "; ".join(part for part in (files, self.note, self.license) if part) or "unknown origin"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights with everything needed to use them.

    Attributes:
        config: Architecture of the model.
        state: Published key -> float32 tensor (batch counters int64) of everything but the text tower: CLIP's image
            tower and logit scale, pixel decoder, mask decoder, void embedding. Views of a memory-mapped file, if loaded
            from one.
        train_vocabulary: The training classes, which are the seen classes (section 3.2).
        provenance: Origin of the weights.
        text_state: Returns the text tower's tensors under published keys.
        fingerprint: Computes the text tower's identity; cached by `text_tower_id`.
    """

    config: ModelConfig
    state: Mapping[str, torch.Tensor] = field(repr=False)
    train_vocabulary: Vocabulary = field(repr=False)
    provenance: Provenance
    text_state: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)
    fingerprint: Callable[[], str] = field(repr=False)

    @cached_property
    def text_tower_id(self) -> str:
        """Hash of the text tower's weights and configuration: equal ids give equal text embeddings."""
        return self.fingerprint()

    @cached_property
    def weights_id(self) -> str:
        """Hash of all weights, wherever they were loaded from; takes about a second for a large model."""
        return _digest([_of_tensors(self.state).encode(), self.text_tower_id.encode()])

    def text_tower(self) -> TextTower:
        """Builds a new text tower in eval mode; keep it only while encoding words.

        Raises:
            CheckpointError: Its weights are not finite.
        """
        state = {key: tensor.float() for key, tensor in self.text_state().items()}
        _check_finite("the text tower", state)
        with undisturbed(), torch.device("meta"):
            tower = TextTower(self.config)
        tower.load_state_dict({key.removeprefix(CLIP_PREFIX): tensor for key, tensor in state.items()}, assign=True)
        return tower.eval().requires_grad_(False)


def load_checkpoint(
    source: str | Path,
    clip: str | Path | None = None,
    *,
    preset: str | None = None,
    train_vocabulary: Vocabulary | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Loads weights strictly: no missing or unexpected keys, and all shapes and types as in the model.

    Args:
        source: A file (ours, or a published one with or without CLIP's keys), the name of a bundled checkpoint or of a
            published model that is installed here, or `recipe:NAME` for seeded weights of preset NAME. "auto": the best
            published model installed here (`clip` and `preset` are ignored), else the bundled demo, with a warning.
        clip: File with CLIP's weights, for published checkpoints without them; None: open_clip's.
        preset: Name in `PRESETS` that the file must have; None: detected.
        train_vocabulary: Replaces the stored one; published files store none and were trained on COCO's classes.
        progress: Reports work that takes seconds.

    Raises:
        CheckpointError: A file is unusable; says which, why and what to do.
        VocabularyError: `train_vocabulary` is not a Vocabulary.
    """
    name = str(source)
    if train_vocabulary is not None:
        require_vocabulary("train_vocabulary", train_vocabulary)
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"there is no preset {short(preset)}; there are {', '.join(PRESETS)}")
    if name == AUTO:
        return _best_here(train_vocabulary)
    if name.startswith(RECIPE_PREFIX):
        checkpoint = _from_recipe(name.removeprefix(RECIPE_PREFIX), progress)
    else:
        file = read_weight_file(_find(source))
        if METADATA_KEY in file.metadata:
            checkpoint = _from_own_file(file)
        else:
            checkpoint = _from_published_file(file, Path(clip) if clip else None, preset, train_vocabulary)
    if preset is not None and checkpoint.config.name != preset:
        raise CheckpointError(f"{name} contains the model {checkpoint.config.name}, not {preset}; omit the preset")
    _check_finite(name, checkpoint.state)
    if checkpoint.provenance.seeded:
        _logger.warning("%s: deterministic random weights; the labels are meaningless", name)
    return checkpoint if train_vocabulary is None else replace(checkpoint, train_vocabulary=train_vocabulary)


def load_model(checkpoint: Checkpoint, vanished_masks: str = PUBLISHED) -> FCCLIP:
    """Builds the network in eval mode without gradients; it uses the checkpoint's tensors without copying them.

    Args:
        checkpoint: The weights.
        vanished_masks: How masks that vanish at stride 32 are pooled, one of `VANISHED_MASKS`.

    Raises:
        SettingsError: Invalid `vanished_masks`.
    """
    if vanished_masks not in VANISHED_MASKS:
        raise SettingsError(f"vanished_masks is {short(vanished_masks)}; it must be one of {', '.join(VANISHED_MASKS)}")
    published = layout_of(checkpoint.config).published
    with undisturbed(), torch.device("meta"):
        model = FCCLIP(checkpoint.config, vanished_masks)
    model.load_state_dict({own: checkpoint.state[key] for own, key in published.items()}, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(
    path: str | Path, checkpoint: Checkpoint, *, dtype: str = "float32", progress: Progress | None = None
) -> None:
    """Writes one self-contained safetensors file atomically: both towers, the trained part and the metadata.

    Args:
        path: Path ending in .safetensors; an existing file is replaced.
        checkpoint: The checkpoint.
        dtype: Type of the stored floating-point tensors, a name in `STORED_TYPES`; they are loaded as float32.
        progress: Reports hashing and writing, in bytes.

    Raises:
        CheckpointError: Wrong suffix, unknown dtype, values too large for it, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} must end in .safetensors, the only format that is written")
    if dtype not in STORED_TYPES:
        raise CheckpointError(f"dtype is {dtype!r}; it must be one of {', '.join(STORED_TYPES)}")
    report = progress or (lambda what, done, total: None)
    sources = tuple(_hashed(source, report) for source in checkpoint.provenance.sources)
    text = _stored(checkpoint.text_state(), dtype)
    header = {
        "format_version": FORMAT_VERSION,
        "config": asdict(checkpoint.config),
        "train_vocabulary": checkpoint.train_vocabulary.to_yaml(),
        "provenance": _provenance_to_dict(replace(checkpoint.provenance, sources=sources)),
    }
    tensors = {**_stored(checkpoint.state, dtype), **text}
    size = sum(tensor.nbytes for tensor in tensors.values())
    report("writing", 0, size)
    write_safetensors(path, tensors, {"format": "pt", METADATA_KEY: json.dumps(header)})
    report("writing", size, size)


def join_clip(
    config: ModelConfig,
    trained: Mapping[str, torch.Tensor],
    clip: ClipWeights,
    train_vocabulary: Vocabulary,
    provenance: Provenance,
) -> Checkpoint:
    """Combines the part that FC-CLIP trains with CLIP's weights.

    Args:
        config: The model.
        trained: Published key -> tensor of everything but CLIP.
        clip: Both towers and the logit scale.
        train_vocabulary: See `Checkpoint`.
        provenance: See `Checkpoint`.

    Raises:
        CheckpointError: `clip` is not the CLIP that `config` needs.
    """
    _check_clip(clip.path, clip.tensors, config)
    return _checkpoint({**trained, **clip.tensors}, config, train_vocabulary, provenance)


def check_published(file: WeightFile, train_vocabulary: Vocabulary, preset: str | None = None) -> ModelConfig:
    """Checks all keys of a file with published names; CLIP's keys may all be absent.

    Returns:
        The configuration of the file.

    Raises:
        CheckpointError: The file is for another model or preset, or a key differs.
    """
    other = _foreign(file.tensors)
    config = None if other else _best_fit(file.tensors)
    if config is None:
        raise CheckpointError(
            f"{file.path} is not an FC-CLIP checkpoint: it looks like {other or 'another model'} (its first keys are "
            f"{_first(list(file.tensors)[:3])}). `fcclip weights list` lists the published FC-CLIP files"
        )
    if preset is not None and config.name != preset:
        raise CheckpointError(
            f"{file.path} contains FC-CLIP with {config.name}, not {preset}; omit the preset, or use the checkpoint of "
            f"{preset} (`fcclip weights list`)"
        )
    layout = layout_of(config)
    buffer = {EMPTY_WEIGHT: Entry((len(train_vocabulary) + 1,), torch.float32)}
    # A full state dictionary contains the training loss's buffer; files without CLIP may or may not.
    kept = buffer if holds_clip(file) or EMPTY_WEIGHT in file.tensors else {}
    further = further_entries(file.tensors, config)
    # A CLIP that was trained too cannot be taken from anywhere else.
    needs_clip = holds_clip(file) or bool(further) or not config.clip_is_frozen
    _check_keys(file, {**(layout.everything if needs_clip else layout.trained), **kept, **further}, config)
    return config


def holds_clip(file: WeightFile) -> bool:
    """Whether a file with published names contains any of CLIP's weights."""
    return any(key.startswith(CLIP_PREFIX) for key in file.tensors)


def compare(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Entry]) -> tuple[str, ...]:
    """Lists all differences between tensors and the expected entries, grouped by kind; empty if there are none."""
    shared = [key for key in expected if key in tensors]
    reshaped = [key for key in shared if tuple(tensors[key].shape) != expected[key].shape]
    retyped = [key for key in shared if not _storable(tensors[key], expected[key])]
    kinds = (
        ("missing", [key for key in expected if key not in tensors]),
        ("not expected", [key for key in tensors if key not in expected]),
        ("of another shape", [f"{key} {list(tensors[key].shape)} not {list(expected[key].shape)}" for key in reshaped]),
        ("of another type", [f"{key} {tensors[key].dtype} not {expected[key].dtype}" for key in retyped]),
    )
    return tuple(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in kinds if keys)


def _best_here(train_vocabulary: Vocabulary | None) -> Checkpoint:
    for path in imported_models().values():
        try:
            checkpoint = load_checkpoint(path, train_vocabulary=train_vocabulary)
        except CheckpointError as error:
            _logger.warning("checkpoint auto: %s; trying the next best", error)
        else:
            _logger.info("checkpoint auto: %s, %s", path, checkpoint.config.name)
            return checkpoint
    checkpoint = load_checkpoint(DEMO, train_vocabulary=train_vocabulary)
    _logger.warning("%s", nothing_imported(len(checkpoint.train_vocabulary)))
    return checkpoint


def _find(source: str | Path) -> Path:
    path = expanded(source, CheckpointError)
    named = {**imported_models(), **bundled_checkpoints()}
    if str(source) in named:
        return named[str(source)]
    if path.suffix or len(path.parts) > 1 or os.path.exists(path):  # exists is False for invalid names
        return path
    if model_named(str(source)):
        raise CheckpointError(f"{source} is not installed on this machine; run: fcclip weights install {source}")
    close = difflib.get_close_matches(str(source), [*named, *(model.key for model in PUBLISHED_MODELS)], n=1)
    raise CheckpointError(
        f"there is no file and no bundled or installed checkpoint {short_name(source)!r}"
        + (f"; did you mean {close[0]}?" if close else "")
        + f"; here are: {', '.join(named) or 'none'}; {AUTO} selects the best available; seeded: "
        + ", ".join(RECIPE_PREFIX + name for name in PRESETS)
    )


def _from_recipe(name: str, progress: Progress | None) -> Checkpoint:
    if name not in PRESETS:
        raise CheckpointError(f"there is no recipe {name!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[name]
    layout = layout_of(config)
    report = None if progress is None else (lambda done, total: progress("drawing weights", done, total))
    return Checkpoint(
        config=config,
        state=seeded_state(_shapes(layout.image), report),
        train_vocabulary=Vocabulary.load(TRAINED_ON),
        provenance=Provenance(seeded=True, note=f"random weights of preset {name}: labels are meaningless"),
        text_state=lambda: seeded_state(_shapes(layout.text)),
        # The recipe is deterministic, so the configuration identifies the tower; drawing it would take seconds.
        fingerprint=lambda: _digest([b"recipe", _tower_configuration(config)]),
    )


def _from_own_file(file: WeightFile) -> Checkpoint:
    try:
        header = json.loads(file.metadata[METADATA_KEY])
        version = header["format_version"]
        if version not in READABLE_VERSIONS:
            raise CheckpointError(
                f"{file.path} has format version {short(version)}; this program reads versions up to {FORMAT_VERSION}; "
                "update fcclip_ros, or import the original files again with `fcclip weights import`"
            )
        config = config_from_dict(header["config"])
        vocabulary = _stored_vocabulary(header["train_vocabulary"])
        provenance = _provenance_from_dict(header["provenance"])
        # Checked before building the model: each layer has at least one key.
        for name, count in layer_counts(config).items():
            if count > len(file.tensors):
                raise ValueError(f"{name} is {count}, but the file contains only {len(file.tensors)} tensors")
        layout = layout_of(config)
    except CheckpointError:
        raise
    except Exception as error:  # a configuration from a file may fail in any way
        raise CheckpointError(
            f"{file.path} has a damaged header ({type(error).__name__}: {first_line(error)}); import the original "
            "files again with `fcclip weights import`"
        ) from error
    _check_keys(file, layout.everything, config)
    return _checkpoint(file.tensors, config, vocabulary, provenance)


def _from_published_file(
    file: WeightFile, clip: Path | None, preset: str | None, vocabulary: Vocabulary | None
) -> Checkpoint:
    known = published_as(file.path.name)
    if known is None and any(key.startswith(OVRCOAT_COPY) for key in file.tensors):
        known = model_named(OVRCOAT)
    vocabulary = Vocabulary.load(known.trained_on if known else TRAINED_ON) if vocabulary is None else vocabulary
    config = check_published(file, vocabulary, preset)
    sources = [Source("FC-CLIP weights", file.path.name, origin=known.url if known else "", path=file.path)]
    license = known.license if known else ""
    if not holds_clip(file):
        if known is not None and known.is_fine_tuned:
            raise CheckpointError(
                f"{file.path} lacks CLIP's weights, which {known.name} has trained too; use the original file"
            )
        weights = load_clip(config, clip)
        sources.append(Source("CLIP weights", weights.path.name, origin=weights.origin, path=weights.path))
        return join_clip(config, file.tensors, weights, vocabulary, Provenance(tuple(sources), license))
    if clip is not None:
        raise CheckpointError(f"{file.path} already contains CLIP's weights; omit {clip}")
    return _checkpoint(file.tensors, config, vocabulary, Provenance(tuple(sources), license))


def _checkpoint(
    tensors: Mapping[str, torch.Tensor], config: ModelConfig, vocabulary: Vocabulary, provenance: Provenance
) -> Checkpoint:
    layout = layout_of(config)
    text = {key: tensors[key] for key in layout.text}
    return Checkpoint(
        config=config,
        state={key: tensors[key].to(entry.dtype) for key, entry in layout.image.items()},
        train_vocabulary=vocabulary,
        provenance=provenance,
        text_state=lambda: text,
        # Computed from the tensors: the cache of text embeddings must not rely on a file's metadata.
        fingerprint=lambda: _fingerprint(config, text),
    )


def _best_fit(tensors: Mapping[str, torch.Tensor]) -> ModelConfig | None:
    """The preset whose trained part matches these keys and shapes best; None if less than half match."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    best, best_share = None, 0.5
    for config in PRESETS.values():
        trained = layout_of(config).trained
        share = sum(shapes.get(key) == entry.shape for key, entry in trained.items()) / len(trained)
        if share > best_share:
            best, best_share = config, share
        if share == 1:
            break
    return best


def _foreign(keys: Iterable[str]) -> str:
    """Guesses from key names what a file that is not an FC-CLIP checkpoint contains; empty if it may be FC-CLIP."""
    keys = set(keys)

    def any_starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if "sem_seg_head.predictor.class_embed.weight" in keys or any_starts("backbone.res", "backbone.stem."):
        return "Mask2Former, which has fixed classes and no CLIP backbone"
    if any_starts("sem_seg_head.", "void_embedding"):
        return ""
    if any_starts("visual.", CLIP_PREFIX) or {"text_projection", "logit_scale"} <= keys:
        return "CLIP alone, without FC-CLIP's trained part: import the FC-CLIP file and pass this one with --clip"
    if {"conv1.weight", "fc.weight"} <= keys:
        return "an image classifier (a torchvision ResNet)"
    return ""


def _check_keys(file: WeightFile, expected: Mapping[str, Entry], config: ModelConfig) -> None:
    others = (f"{len(file.others)} not tensors: {_first(file.others)}",) if file.others else ()
    differences = compare(file.tensors, expected) + others
    if not differences:
        return
    hint = "the file was changed after it was saved, or is for another version of the model; use the original"
    if any(EMPTY_WEIGHT in difference for difference in differences):
        classes = expected[EMPTY_WEIGHT].shape[0] - 1 if EMPTY_WEIGHT in expected else "no"
        hint += (
            f" ({EMPTY_WEIGHT} has one entry per training class and one for void; the training vocabulary has "
            f"{classes} classes; pass another one if needed)"
        )
    raise CheckpointError(f"{file.path} does not match {config.name}. Keys {'; '.join(differences)}. Cause: {hint}")


def _check_clip(path: Path, tensors: dict[str, torch.Tensor], config: ModelConfig) -> None:
    differences = compare(tensors, layout_of(config).clip)
    if not differences:
        return
    other = fitting_preset(tensors)
    if other is not None:
        what = f"it is open_clip's {other.open_clip_name}"
    elif not any(key.startswith(VISUAL_PREFIX) for key in tensors):
        what = "it contains no CLIP image tower"
    elif CLIP_PREFIX + "token_embedding.weight" not in tensors:
        what = "it contains an image tower without CLIP's text tower"
    else:
        what = "keys " + "; ".join(differences)
    raise CheckpointError(
        f"{path} is not the CLIP that {config.name} needs: {what}. Pass the one that it was trained with"
        + (f": open_clip's {config.open_clip_name}, {config.open_clip_tag}" if config.open_clip_name else "")
    )


def _storable(tensor: torch.Tensor, expected: Entry) -> bool:
    """Whether a tensor can be converted to the expected type; unused batch counters may have any real type."""
    types = {*STORED_TYPES.values(), torch.float64, expected.dtype}
    return tensor.layout is torch.strided and tensor.dtype in types


def _check_finite(name: str, state: Mapping[str, torch.Tensor]) -> None:
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"{name} contains NaN or infinite values in {len(broken)} tensors: {_first(broken)}; it is damaged, or its "
            "training diverged: use another copy"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass without temporary memory: NaN propagates to minimum and maximum, infinities are one of them."""
    return all(math.isfinite(value.item()) for value in tensor.aminmax())


def _stored(state: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    stored = {
        key: (tensor.to(STORED_TYPES[dtype]) if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in state.items()
    }
    if dtype == "float16":
        _check_finite("stored as float16 the checkpoint", stored)
    return stored


def _hashed(source: Source, report: Progress) -> Source:
    if source.sha256 or source.path is None:
        return source
    what = f"hashing {source.name}"
    return replace(source, sha256=sha256_of(source.path, lambda done, total: report(what, done, total)))


def _provenance_to_dict(provenance: Provenance) -> dict[str, Any]:
    stored = asdict(provenance)
    for source in stored["sources"]:
        del source["path"]
    return stored


def _provenance_from_dict(stored: dict[str, Any]) -> Provenance:
    if "licence" in stored:  # written by version 0.1
        stored = {"license": stored["licence"], **{key: value for key, value in stored.items() if key != "licence"}}
    sources = stored["sources"]
    if not isinstance(sources, list) or len(sources) > _MAX_SOURCES:
        raise ValueError(f"provenance.sources is {short(sources)}; expected a list of at most {_MAX_SOURCES}")
    if not isinstance(stored.get("seeded", False), bool):
        raise ValueError(f"provenance.seeded is {short(stored['seeded'])}; expected true or false")
    of_sources = [text for source in sources for text in source.values()]
    for text in (stored.get("license", ""), stored.get("note", ""), *of_sources):
        if not isinstance(text, str) or len(text) > _MAX_TEXT_LENGTH or not text.isprintable():
            raise ValueError(
                f"provenance has {short(text)}; expected printable strings of at most {_MAX_TEXT_LENGTH} characters"
            )
    names = {"role", "name", "sha256", "origin"}
    if any(set(source) - names for source in sources):
        raise ValueError(f"provenance.sources has unknown fields; known are {', '.join(sorted(names))}")
    return Provenance(**{**stored, "sources": tuple(Source(**source) for source in sources)})


def _stored_vocabulary(text: object) -> Vocabulary:
    if not isinstance(text, str):
        raise ValueError(f"train_vocabulary is {short(text)}; expected a YAML string")
    return Vocabulary.from_yaml(text, "the training vocabulary")


def _fingerprint(config: ModelConfig, text: Mapping[str, torch.Tensor]) -> str:
    return _of_tensors(text, _tower_configuration(config))


def _of_tensors(tensors: Mapping[str, torch.Tensor], *before: bytes) -> str:
    def of_tensor(key: str) -> bytes:
        tensor = tensors[key]
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        return _digest([f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), content]).encode()

    with ThreadPoolExecutor() as pool:  # half a gigabyte for a large model
        return _digest([*before, *pool.map(of_tensor, sorted(tensors))])


def _tower_configuration(config: ModelConfig) -> bytes:
    return json.dumps([asdict(config.text), config.embed_dim], sort_keys=True).encode()


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = sha256()  # hardware-accelerated on most CPUs
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def _shapes(entries: Mapping[str, Entry]) -> dict[str, tuple[int, ...]]:
    return {key: entry.shape for key, entry in entries.items()}


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - SPELLED_OUT} more" if len(keys) > SPELLED_OUT else ""
    return ", ".join(short_name(key) for key in keys[:SPELLED_OUT]) + more
