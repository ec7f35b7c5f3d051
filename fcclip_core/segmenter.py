"""`Segmenter`: image + current vocabulary -> `PanopticResult`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.backends import FallbackBackend, create_backend
from fcclip_core.backends.interface import Progress as BuildProgress
from fcclip_core.devices import resolve_device, watched, watches_device
from fcclip_core.errors import ImageError, SettingsError, VocabularyError
from fcclip_core.evidence import FrameEvidence
from fcclip_core.export.built_files import BuiltFiles
from fcclip_core.files.cache_folder import cache_folder
from fcclip_core.inference.classification import MAX_LOGIT_SCALE, MaskProbabilities, classify
from fcclip_core.inference.decoder import UndecodedFrame, create_decoder
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.postprocess import MergedFrame
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.inference.preprocess_gpu import create_preprocessor
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.quoting import short
from fcclip_core.results import PanopticResult, Prediction, Segment
from fcclip_core.settings import AUTO, PUBLISHED, InferenceSettings
from fcclip_core.vocabulary.class_ids import ClassIds
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass, checked_names, require_vocabulary
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.snapshot import SnapshotBuilder, VocabularySnapshot
from fcclip_core.vocabulary.text_embeddings import Progress, TextEncoder, TextRows
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint, load_model
from fcclip_core.weights.model_zoo import EVERYDAY


@dataclass(frozen=True)
class EncodedImage:
    """The network's answer for one image, before any word or threshold: label it as often as you like.

    Attributes:
        output: Masks and embeddings, a batch of one.
        geometry: The sizes that the image passed through.
        timings: Seconds per stage: preprocess, model; on a GPU, reading them waits for it.
    """

    output: ModelOutput
    geometry: FrameGeometry
    timings: Mapping[str, float]

    def resizer(self) -> MaskResizer:
        """Brings `output.mask_logits[0]` to the image's size."""
        logits = self.output.mask_logits
        return MaskResizer(self.geometry, (logits.shape[-2], logits.shape[-1]), logits.device)


class Segmenter:
    """FC-CLIP with a current vocabulary.

    Image and words are separate: the network sees the image alone, `set_vocabulary` may be called from any thread at
    any time, and a frame is labeled with exactly one vocabulary: the one that was active when the frame began.

    Attributes:
        config: Shape of the network.
        provenance: Where the weights come from.
        train_vocabulary: Decides which classes count as seen.
        vanished_masks: What masks that vanish at stride 32 are pooled over, one of `VANISHED_MASKS`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        vanished_masks: str = PUBLISHED,
        settings: InferenceSettings | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Builds the network and its backend from `checkpoint`; see `from_checkpoint`."""
        self.config = checkpoint.config
        self.provenance = checkpoint.provenance
        self.train_vocabulary = checkpoint.train_vocabulary
        self.vanished_masks = vanished_masks
        self._settings = self._with_preset(InferenceSettings(shorter_side=0) if settings is None else settings)
        _limit_threads(self._settings)
        self._model = load_model(checkpoint, vanished_masks)
        self._backend: FallbackBackend = create_backend(
            backend, self._model, resolve_device(device), precision=precision, cache_dir=cache_dir
        )
        self._checkpoint = checkpoint
        self._text_tower_id = checkpoint.text_tower_id
        self._text = TextRows(
            TextEncoder(checkpoint.text_tower, self._backend.device),
            self._text_tower_id,
            cache_folder(cache_dir),
            width=checkpoint.config.embed_dim,
        )
        self._class_ids = ClassIds()
        self._snapshots = SnapshotBuilder(
            self._model,
            self._rows_of,
            checkpoint.train_vocabulary,
            self._class_ids,
            self._backend.device,
            self._text_tower_id,
        )
        self._snapshot: VocabularySnapshot | None = None
        self._writer = threading.Lock()
        self._preprocess = create_preprocessor(self._backend.device)
        self._decoder = create_decoder(self._backend.device, BuiltFiles.below(cache_dir).folder)

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path = AUTO,
        *,
        clip: str | Path | None = None,
        train_vocabulary: Vocabulary | None = None,
        **options: Any,
    ) -> Segmenter:
        """Loads a checkpoint and makes it ready.

        Args:
            source: A file, a bundled name, or `recipe:NAME` for seeded weights (their labels mean nothing). "auto": the
                best published model that was imported on this machine, else the bundled demo, with a warning.
            clip: File with CLIP's own weights, for published checkpoints without them; None takes open_clip's.
            train_vocabulary: Decides which classes count as seen, instead of the checkpoint's own.
            **options: device ("auto", "cpu", "cuda", "cuda:1"), backend ("auto" or one of `backends.BACKENDS`),
                precision ("auto", "fp32", "fp16", "bf16"), vanished_masks ("published", "best_cell"), settings,
                cache_dir (text rows, built graphs).

        Raises:
            CheckpointError: The weights cannot be loaded.
            SettingsError: No such device, backend, precision or choice.
        """
        return cls(load_checkpoint(source, clip, train_vocabulary=train_vocabulary), **options)

    @property
    def settings(self) -> InferenceSettings:
        """Inference settings, the preset's where none were given; assigning takes effect with the next frame."""
        return self._settings

    @settings.setter
    def settings(self, settings: InferenceSettings) -> None:
        self._settings = self._with_preset(settings)

    @property
    def vocabulary(self) -> VocabularySnapshot | None:
        """The active vocabulary, or None before the first `set_vocabulary`."""
        return self._snapshot

    def default_background(self) -> Vocabulary | None:
        """What should compete with short lists of words (`Vocabulary.with_background`), for this checkpoint.

        Its training vocabulary, which the in-vocabulary classifier knows, and, if its CLIP was trained at web scale,
        everyday things and surfaces too. None for seeded weights, whose text embeddings mean nothing.
        """
        if self.provenance.seeded:
            return None
        if self.config.open_clip_name is None:
            return self.train_vocabulary
        return self.train_vocabulary.joined(Vocabulary.load(EVERYDAY))

    @property
    def weights_id(self) -> str:
        """Hash of the weights, the same on every machine and backend; takes about a second for a large model."""
        return self._checkpoint.weights_id

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._backend.device

    @property
    def computes_in_background(self) -> bool:
        """Whether `encode` and `start_decoding` return before a GPU has done what they launched."""
        return self.device.type == "cuda"

    @property
    def backend_description(self) -> str:
        """Human-readable: the backend, its precision and its device."""
        return self._backend.description

    @property
    def backend_warning(self) -> str:
        """Which backend should run and does not any more, and why; empty while nothing is wrong."""
        return self._backend.problem

    @watches_device
    def prepare(self, height: int, width: int, batch: int = 1, progress: BuildProgress | None = None) -> None:
        """Builds whatever the first images of a size need; may take minutes.

        Args:
            height: Of the images to come, in pixels, as the camera gives them.
            width: Likewise.
            batch: Images that come together.
            progress: Called with (what is being done, units done, units in all).
        """
        _limit_threads(self._settings)
        self._backend.prepare(batch, *self.padded_size(height, width), progress)

    def prepare_in_background(self, height: int, width: int, batches: int = 1, *, requested: bool = True) -> None:
        """Builds whatever images of a size need, single ones and batches, in the background; returns at once.

        Args:
            height: Of the images to come, in pixels, as the camera gives them.
            width: Likewise.
            batches: Images that come together at most.
            requested: Whether the user asked for this size; expensive builds, such as engines, are made only then.
        """
        _limit_threads(self._settings)
        self._backend.prepare_in_background(batches, *self.padded_size(height, width), requested=requested)

    def close(self, timeout: float | None = None) -> bool:
        """Stops the builds in the background; images can be segmented as before.

        Args:
            timeout: Seconds to wait for the build in progress; None: no limit.

        Returns:
            False if a build is still in progress.
        """
        return self._backend.close(timeout)

    @watches_device
    def prepare_vocabulary(
        self,
        vocabulary: Vocabulary,
        text_embeddings: np.ndarray | Tensor | None = None,
        progress: Progress | None = None,
    ) -> VocabularySnapshot:
        """Prepares a vocabulary without activating it; pass the snapshot to `__call__` for single frames.

        Args:
            vocabulary: Classes; names that were active before keep their ids, new names get free ids, which `activate`
                makes permanent.
            text_embeddings: float32 `(total synonyms, D)` unit rows; skips the text tower.
            progress: Called with (names encoded, names to encode) while new words are encoded.

        Raises:
            VocabularyError: Ids contradict earlier ones, or the rows do not fit.
        """
        require_vocabulary("the vocabulary", vocabulary)
        return self._snapshots.prepare(vocabulary, text_embeddings, progress)

    def set_vocabulary(
        self,
        vocabulary: Vocabulary,
        text_embeddings: np.ndarray | Tensor | None = None,
        progress: Progress | None = None,
    ) -> VocabularySnapshot:
        """Activates a vocabulary, atomically, from the next frame on; may run in parallel with `__call__`.

        Args:
            vocabulary: The classes.
            text_embeddings: float32 `(total synonyms, D)` unit rows; skips the text tower.
            progress: Called with (names encoded, names to encode) while new words are encoded.

        Returns:
            The active vocabulary, with its version and class ids.

        Raises:
            VocabularyError: See `prepare_vocabulary`; the active vocabulary stays.
        """
        return self.activate(self.prepare_vocabulary(vocabulary, text_embeddings, progress))

    def activate(self, prepared: VocabularySnapshot) -> VocabularySnapshot:
        """Activates a prepared vocabulary, atomically, from the next frame on; takes no time.

        Args:
            prepared: From `prepare_vocabulary`.

        Returns:
            The active vocabulary, with its version and permanent class ids.

        Raises:
            VocabularyError: An id that it requests was assigned to another name in the meantime.
        """
        with self._writer:
            version = self._snapshot.version + 1 if self._snapshot else 1
            self._snapshot = replace(prepared, version=version, class_ids=self._class_ids.resolve(prepared.vocabulary))
            return self._snapshot

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        """The words that are not encoded yet, each once."""
        return self._text.unknown(words)

    @watches_device
    def learn_words(self, words: Sequence[str]) -> None:
        """Encodes words for later use; may run in parallel with `__call__`.

        Raises:
            CheckpointError: The text tower gives no usable numbers.
        """
        self._rows_of(words)

    @watches_device
    def extend_vocabulary(
        self, snapshot: VocabularySnapshot, further: Sequence[VocabularyClass], without: Collection[str] = ()
    ) -> VocabularySnapshot:
        """Adds classes to a prepared vocabulary, for single frames; no ids are assigned to them.

        Segments of all classes are published then, also those of distractors and those below a minimum score.

        Args:
            snapshot: The classes that compete with them.
            further: The added classes; their ids are 0.
            without: Synonyms to remove from the vocabulary's own classes; first synonyms stay.

        Raises:
            VocabularyError: A name is taken.
        """
        return self._snapshots.extend(snapshot, further, without)

    @watches_device
    def embed_text(self, names: Sequence[str], progress: Progress | None = None) -> TextEmbeddings:
        """Embeds names as a vocabulary's are: what segments' embeddings compare with.

        Args:
            names: At least one; commas do not separate here.
            progress: Called with (names encoded, names to encode) while new words are encoded.

        Raises:
            VocabularyError: No list, no name, or one that is empty or too long.
        """
        names = checked_names("names", names)
        if not names:
            raise VocabularyError("there is no name to embed; give at least one")
        return TextEmbeddings(
            rows=self._rows_of(names, progress).numpy(),
            logit_scale=min(self._model.clip_logit_scale.exp().item(), MAX_LOGIT_SCALE),
            model=self._text_tower_id,
        )

    def __call__(self, image: np.ndarray, vocabulary: VocabularySnapshot | None = None) -> PanopticResult:
        """Segments one image.

        Args:
            image: uint8 RGB `(H, W, 3)`, any size.
            vocabulary: A prepared vocabulary for this frame alone; None takes the active one.

        Raises:
            ImageError: Not such an image.
            VocabularyError: No vocabulary is active.
        """
        # Both are read once: one vocabulary and one set of settings per frame.
        snapshot, settings = self._require(vocabulary), self._settings
        return self.decode(self.encode(image, settings), snapshot, settings)

    def encode(self, image: np.ndarray, settings: InferenceSettings | None = None) -> EncodedImage:
        """Runs the network alone, at the size that `settings` say; `image` and errors as `__call__`."""
        return self.encode_batch([image], settings)[0]

    @watches_device
    def encode_batch(
        self, images: Sequence[np.ndarray], settings: InferenceSettings | None = None
    ) -> list[EncodedImage]:
        """Runs the network once on several images, with the same answers as one by one, up to float rounding.

        Args:
            images: At least one, each as for `__call__`; all of one `padded_size`.
            settings: Say how large the network sees them; None takes the segmenter's.

        Returns:
            One answer an image; its timings are those of the whole batch.

        Raises:
            ImageError: One is no image, or their padded sizes differ.
        """
        clock = StageClock(self.device)
        output, geometries = self._run_model(images, self._frame_settings(settings), clock)
        return [EncodedImage(_image_of(output, index), geometry, clock) for index, geometry in enumerate(geometries)]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which the network sees an image under the present settings; equal ones fit one batch."""
        return FrameGeometry.of(height, width, self._settings).padded

    def decode(
        self,
        encoded: EncodedImage,
        vocabulary: VocabularySnapshot | None = None,
        settings: InferenceSettings | None = None,
    ) -> PanopticResult:
        """Names and merges the masks of an image that went through the network before.

        Args:
            encoded: From `encode`.
            vocabulary: A prepared vocabulary; None takes the active one.
            settings: Ensemble and thresholds; None takes the segmenter's. The network's input size is already decided.

        Raises:
            VocabularyError: No vocabulary is active.
        """
        return self.start_decoding(encoded, vocabulary, settings)()

    @watches_device
    def start_decoding(
        self,
        encoded: EncodedImage,
        vocabulary: VocabularySnapshot | None = None,
        settings: InferenceSettings | None = None,
    ) -> Callable[[], PanopticResult]:
        """`decode` in two steps: on a GPU, the next image can be encoded while this one is computed.

        Args:
            encoded: As for `decode`, like the others.
            vocabulary: Likewise.
            settings: Likewise.

        Returns:
            What waits for the result; to be called once.

        Raises:
            VocabularyError: No vocabulary is active.
        """
        snapshot, used = self._require(vocabulary), self._frame_settings(settings)
        output, geometry = encoded.output, encoded.geometry
        clock = StageClock(self.device)
        wait = self._decoder(UndecodedFrame(output, snapshot.words, geometry, used), clock)

        def finish() -> PanopticResult:
            with watched(self.device):
                labels = wait()
            return PanopticResult(
                segment_map=labels.merged.segment_map,
                segments=_describe(labels.merged, snapshot),
                vocabulary_version=snapshot.version,
                timings={**encoded.timings, **clock},
                evidence=FrameEvidence(
                    mask_logits=output.mask_logits[0],
                    class_probs=labels.class_probs,
                    geometry=geometry,
                    queries=labels.merged.queries,
                    class_ids=snapshot.class_ids,
                    names=snapshot.vocabulary.names,
                    is_thing=snapshot.vocabulary.things,
                    top_k=used.top_k_instances,
                    is_distractor=snapshot.vocabulary.distractors if snapshot.distractors else (),
                    merging=used.merging,
                ),
            )

        return finish

    @watches_device
    def predict(self, image: np.ndarray, vocabulary: VocabularySnapshot | None = None) -> Prediction:
        """The model's answer for one image before masks are merged; arguments and errors as `__call__`."""
        snapshot, settings = self._require(vocabulary), self._frame_settings(None)
        output, _ = self._run_model([image], settings, StageClock(self.device))
        probabilities: MaskProbabilities = classify(output, snapshot.classifier, settings)
        return Prediction(
            mask_logits=output.mask_logits[0],
            class_probs=probabilities.ensemble[0],
            in_vocab_probs=probabilities.in_vocab[0],
            out_vocab_probs=probabilities.out_vocab[0],
            embeddings=F.normalize(output.out_vocab_embedding[0].float(), dim=-1),
        )

    def _run_model(
        self, images: Sequence[np.ndarray], settings: InferenceSettings, clock: StageClock
    ) -> tuple[ModelOutput, list[FrameGeometry]]:
        tensors, geometries = [], []
        for image in images:
            tensor, geometry = self._preprocess(image, settings)
            # Copied at once, because the next image may be prepared in the same memory.
            tensors.append(tensor if len(images) == 1 else tensor.clone())
            geometries.append(geometry)
        if len({geometry.padded for geometry in geometries}) > 1:
            sizes = ", ".join(f"{width} x {height}" for height, width in (geometry.padded for geometry in geometries))
            raise ImageError(f"the images of a batch must have one padded size; these have {sizes}")
        batch = tensors[0] if len(images) == 1 else torch.cat(tensors)
        clock.stage("preprocess")
        output = self._backend(batch)
        clock.stage("model")
        return output, geometries

    def _require(self, vocabulary: VocabularySnapshot | None) -> VocabularySnapshot:
        snapshot = self._snapshot if vocabulary is None else vocabulary
        if snapshot is None:
            raise VocabularyError("no vocabulary is set; call set_vocabulary(Vocabulary.from_names([...])) first")
        if not isinstance(snapshot, VocabularySnapshot):
            raise VocabularyError(
                f"the vocabulary is {short(snapshot)}; expected what prepare_vocabulary or set_vocabulary gave"
            )
        return snapshot

    def _frame_settings(self, given: InferenceSettings | None) -> InferenceSettings:
        """The given settings or the segmenter's, the preset's defaults filled in; sets the number of threads."""
        settings = self._settings if given is None else given
        _require_settings(settings)
        _limit_threads(settings)
        return self._with_preset(settings)

    def _with_preset(self, settings: InferenceSettings) -> InferenceSettings:
        _require_settings(settings)
        if settings.valid_mask_only is None:
            # The preset leaves vanished masks out because their embedding says nothing; that of a best cell does.
            is_valid_only = self.config.valid_mask_only and self.vanished_masks == PUBLISHED
            settings = replace(settings, valid_mask_only=is_valid_only)
        if not settings.shorter_side:
            settings = replace(settings, shorter_side=min(self.config.shorter_side, settings.max_size))
        return settings

    def _rows_of(self, names: Sequence[str], progress: Progress | None = None) -> Tensor:
        _limit_threads(self._settings)
        return self._text.rows(names, progress)


def _require_settings(settings: InferenceSettings) -> None:
    if not isinstance(settings, InferenceSettings):
        raise SettingsError(f"settings is {short(settings)}; expected an InferenceSettings")


def _limit_threads(settings: InferenceSettings) -> None:
    """Sets torch's number of threads, which holds only for the calling thread."""
    if settings.num_threads and torch.get_num_threads() != settings.num_threads:
        torch.set_num_threads(settings.num_threads)


def _image_of(output: ModelOutput, index: int) -> ModelOutput:
    """The answer for one image of a batch, as a batch of one; a copy, so that it does not keep the batch alive."""
    if len(output.mask_logits) == 1:
        return output
    one = slice(index, index + 1)
    return ModelOutput(
        mask_logits=output.mask_logits[one].clone(),
        in_vocab_embedding=output.in_vocab_embedding[one].clone(),
        out_vocab_embedding=output.out_vocab_embedding[one].clone(),
        mask_survives=output.mask_survives[one].clone(),
    )


def _describe(merged: MergedFrame, snapshot: VocabularySnapshot) -> list[Segment]:
    """Adds ids and names to merged masks."""
    classes = snapshot.vocabulary.classes
    columns = (merged.class_indices, merged.scores, merged.areas, merged.boxes, merged.embeddings)
    return [
        Segment(
            id=index,
            class_id=snapshot.class_ids[label],
            name="" if classes[label].distractor else classes[label].name,
            score=float(score),
            is_thing=classes[label].is_thing,
            area=int(area),
            box=tuple(box.tolist()),
            embedding=embedding,
        )
        for index, (label, score, area, box, embedding) in enumerate(zip(*columns, strict=True), start=1)
    ]
