"""What one pass saves (the paper's Table 4): our mask pooling against a CLIP classifier that sees one crop per mask.

Both ways share the first stage, backbone and mask generator, measured once a frame. The second then cuts masks out of
the original image with a margin, resizes them to CLIP's input size and sends them through the same image tower.
Everything after the embeddings is the same: equation 7, thresholds, merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.clocks import clocks, decoding_places
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.quality.zero_shot import CROP, cut_out, embed_crops
from fcclip_core import Segmenter, load_checkpoint
from fcclip_core.datasets.records import PanopticSample
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.datasets.world_shards import WorldShards
from fcclip_core.evaluation.overlaps import mask_overlaps, pairwise_iou
from fcclip_core.evaluation.panoptic import MATCH_IOU
from fcclip_core.evaluation.scoreboard import Scoreboard
from fcclip_core.inference.classification import classify
from fcclip_core.model.config import ModelConfig, ResNetConfig
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.segmenter import EncodedImage
from fcclip_core.settings import InferenceSettings
from fcclip_core.simulation.dataset import FRAMES_PER_SHARD, WorldPlan
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from oracle.trace import Trace

SINGLE = "single pass"
SHARED = ("preprocess", "backbone", "mask generator")
STAGES = (*SHARED, "masks and crops", "classification", "merging")
MASKS = ("surviving", "all")
BACKGROUNDS = ("removed", "kept")
FORMS = {"ensemble": "geometric", "CLIP alone": "out_of_vocabulary"}
PIXELS_IN_PRETRAINING = {"convnext_large": 320}
"""CLIP's input size where the model's configuration does not say it."""


@dataclass
class Way:
    """Results of one way to label masks, over all frames.

    Attributes:
        boards: Quality with the ensemble, and with CLIP's embeddings alone.
        right: Truth segments whose mask got the right name, as `boards`.
        seconds: CPU and wall seconds by stage.
        crops: Masks that were cut out.
    """

    boards: dict[str, Scoreboard]
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FORMS, 0))
    seconds: dict[str, dict[str, float]] = field(
        default_factory=lambda: {kind: dict.fromkeys(STAGES, 0.0) for kind in ("cpu", "wall")}
    )
    crops: int = 0

    def add(self, trace: Trace, stages: Iterable[str] = STAGES) -> None:
        """Adds some stages of one frame."""
        for kind, seconds in self.seconds.items():
            for stage in stages:
                seconds[stage] += getattr(trace, kind).get(stage, 0.0)


class Comparison:
    """Names the masks of frame after frame in every way, with clocks at the stages."""

    def __init__(self, segmenter: Segmenter, ways: Iterable[tuple[str, str]], crop: int, batch: int) -> None:
        """Takes a segmenter on the CPU that has a vocabulary.

        Args:
            segmenter: The model.
            ways: Pairs of `MASKS` and `BACKGROUNDS`.
            crop: Side of the crops in pixels.
            batch: Crops that go through the image tower at once.
        """
        assert segmenter.vocabulary is not None
        self.snapshot: VocabularySnapshot = segmenter.vocabulary
        self.ways = {SINGLE: self._way()}
        self.frames = self.queries = self.surviving = self.matched = 0
        self._segmenter, self._crop, self._batch = segmenter, crop, batch
        self._model: Any = segmenter._model
        self._settings = replace(segmenter.settings, valid_mask_only=segmenter.config.valid_mask_only)
        self._two_stage = {
            f"crops: {masks} masks, background {background}": (masks, background) for masks, background in ways
        }
        self.ways |= {name: self._way() for name in self._two_stage}

    def warm_up(self, sample: PanopticSample) -> None:
        """Runs everything once without counting."""
        encoded, trace = self._encode(sample)
        self._label(encoded, trace)
        self._label(self._crop_by_crop(sample.image, encoded, np.arange(1), BACKGROUNDS[0], trace)[0], trace)

    def add(self, number: int, sample: PanopticSample) -> None:
        """Measures one frame; `number` is its place in the dataset."""
        encoded, shared = self._encode(sample)
        every = np.arange(encoded.output.mask_logits.shape[1])
        chosen = {"all": every, "surviving": self._surviving(encoded.output)}
        matched = matched_queries(sample, encoded, chosen["surviving"])
        self.frames += 1
        self.queries += len(every)
        self.surviving += len(chosen["surviving"])
        self.matched += len(matched)

        way, trace = self.ways[SINGLE], Trace(keep=False)
        self._label(encoded, trace)
        way.add(shared)
        way.add(trace)
        self._score(way, number, sample, encoded, every, matched)
        for name, (masks, background) in self._two_stage.items():
            way, trace = self.ways[name], Trace(keep=False)
            cropped, queries = self._crop_by_crop(sample.image, encoded, chosen[masks], background, trace)
            self._label(cropped, trace)
            way.add(shared, SHARED)  # and not the mask pooling
            way.add(trace)
            way.crops += len(queries)
            self._score(way, number, sample, cropped, queries, matched)

    def _way(self) -> Way:
        snapshot = self.snapshot
        things = snapshot.vocabulary.things
        return Way({form: Scoreboard(snapshot.class_ids, things, snapshot.seen) for form in FORMS})

    def _encode(self, sample: PanopticSample) -> tuple[EncodedImage, Trace]:
        """The network's answer; its mask pooling is timed as classification."""
        trace = Trace(keep=False)
        places = [
            (self._segmenter, "_preprocess", "preprocess"),
            (self._model.backbone, "forward", "backbone"),
            (self._model.pixel_decoder, "forward", "mask generator"),
            (self._model.mask_decoder, "forward", "mask generator"),
            (self._model.backbone, "embed_masks", "classification"),
        ]
        with clocks(places, trace):
            return self._segmenter.encode(sample.image), trace

    def _label(self, encoded: EncodedImage, trace: Trace) -> None:
        with clocks(decoding_places(self._segmenter, "classification", "merging"), trace):
            self._segmenter.decode(encoded, self.snapshot, self._settings)

    def _surviving(self, output: ModelOutput) -> np.ndarray:
        """The queries that the first stage, which knows nothing of CLIP's second opinion, does not call void."""
        settings = replace(self._settings, ensemble="in_vocabulary")
        scores, labels = classify(output, self.snapshot.classifier, settings).ensemble[0].max(-1)
        void = len(self.snapshot.class_ids)
        return ((labels < void) & (scores > settings.object_mask_threshold)).nonzero().squeeze(1).numpy()

    def _crop_by_crop(
        self, image: np.ndarray, encoded: EncodedImage, queries: np.ndarray, background: str, trace: Trace
    ) -> tuple[EncodedImage, np.ndarray]:
        """The same masks with CLIP's embeddings of their crops, and which of `queries` they are: not the empty ones."""
        output = encoded.output
        with trace.stage("masks and crops"):
            masks = image_masks(encoded, queries)
            boxes = [ndimage.find_objects(mask.view(np.uint8)) for mask in masks]
            shown = [index for index, found in enumerate(boxes) if found]
            crops = [
                cut_out(image, boxes[index][0], self._crop, masks[index] if background == "removed" else None)
                for index in shown
            ]
        with trace.stage("classification"), torch.inference_mode():
            device = output.mask_logits.device
            batches = [crops[start : start + self._batch] for start in range(0, len(crops), self._batch)]
            embeddings = [embed_crops(self._model.backbone, batch, device) for batch in batches]
        queries = queries[shown]
        replaced = ModelOutput(
            mask_logits=output.mask_logits[:, queries],
            in_vocab_embedding=output.in_vocab_embedding[:, queries],
            out_vocab_embedding=torch.cat((output.out_vocab_embedding[0, :0], *embeddings))[None],
            mask_survives=torch.ones(1, len(queries), dtype=torch.bool),
        )
        return replace(encoded, output=replaced), queries

    def _score(
        self,
        way: Way,
        number: int,
        sample: PanopticSample,
        encoded: EncodedImage,
        queries: np.ndarray,
        matched: Sequence[tuple[int, int]],
    ) -> None:
        row_of = {query: row for row, query in enumerate(queries.tolist())}
        for form, ensemble in FORMS.items():
            settings = replace(self._settings, ensemble=ensemble)
            way.boards[form].update(number, sample, self._segmenter.decode(encoded, self.snapshot, settings))
            probabilities = classify(encoded.output, self.snapshot.classifier, settings).ensemble[0]
            names = probabilities[:, :-1].argmax(-1).tolist()
            way.right[form] += sum(names[row_of[query]] == label for label, query in matched)


def image_masks(encoded: EncodedImage, queries: np.ndarray) -> np.ndarray:
    """Masks of some queries at the image's size: bool `(K, H, W)`."""
    logits = encoded.output.mask_logits[0, queries]
    return torch.cat([band > 0 for _, band in encoded.resizer().bands(logits)], 1).numpy()


def matched_queries(sample: PanopticSample, encoded: EncodedImage, queries: np.ndarray) -> list[tuple[int, int]]:
    """Class and query of the truth segments that some of `queries` overlap with an IoU above one half: the best one."""
    truth_areas = np.bincount(sample.segment_map.ravel(), minlength=len(sample.segments) + 1)
    iou = pairwise_iou(mask_overlaps(sample, encoded), truth_areas)[:, queries]
    return [
        (segment.class_index, int(queries[row.argmax()]))
        for segment, row in zip(sample.segments, iou, strict=True)
        if not segment.is_crowd and row.max(initial=0.0) > MATCH_IOU
    ]


def main() -> None:
    """Measures and prints."""
    parser = make_parser(__doc__, "checkpoint", "seed", "shorter_side", threads=1)
    parser.add_argument("--shards", type=Path, metavar="DIR", help="frames; without it, scenes are rendered on the fly")
    parser.add_argument("--limit", type=int, default=50, help="frames")
    parser.add_argument("--crop", type=int, help="pixels, a multiple of 32; without it, what the model's CLIP saw")
    parser.add_argument("--batch", type=int, default=32, help="crops at once")
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=MASKS, help="which are cut out")
    parser.add_argument("--backgrounds", nargs="+", choices=BACKGROUNDS, default=BACKGROUNDS, help="of the crops")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("single_pass")
    checkpoint = load_checkpoint(args.checkpoint)
    side = args.shorter_side or checkpoint.config.shorter_side
    settings = InferenceSettings(shorter_side=side, num_threads=args.threads)
    # The only backend that runs the model's own modules, which are what is timed and what crops go through.
    segmenter = Segmenter(checkpoint, device="cpu", backend="eager", settings=settings)
    segmenter.set_vocabulary(world_vocabulary())
    crop = args.crop or input_size(checkpoint.config)
    ways = [(masks, background) for masks in args.masks for background in args.backgrounds]
    comparison = Comparison(segmenter, ways, crop, args.batch)
    frames: WorldShards | WorldScenes = WorldScenes(WorldPlan(args.limit, args.seed, views=1))
    if args.shards:
        frames = WorldShards(args.shards, world_vocabulary(), -(-args.limit // FRAMES_PER_SHARD))
    comparison.warm_up(frames[0])
    for number in range(min(args.limit, len(frames))):
        comparison.add(number, frames[number])
        progress(f"frame {number + 1}")

    result = summary(comparison)
    seeded = checkpoint.provenance.seeded
    say(
        f"{args.checkpoint}, shorter side {side}, crops of {crop} pixels; {result['frames']} frames; a frame has "
        f"{result['queries']:.0f} queries, {result['surviving']:.1f} of them surviving"
    )
    show_stages(result)
    if seeded:
        say("seeded weights: how many masks survive, and all names, mean nothing")
    else:
        show_names(result)
    about = {"seeded": seeded, "shorter_side": side, "crop": crop}
    report.write(args.json, **arguments_of(args, "checkpoint", "batch") | about | result)


def input_size(config: ModelConfig) -> int:
    """Side in pixels of the images that the model's CLIP was trained on."""
    if isinstance(config.vision, ResNetConfig):
        return config.vision.image_size
    return PIXELS_IN_PRETRAINING.get(config.name, CROP)


def summary(comparison: Comparison) -> dict[str, Any]:
    """Means over frames, JSON-ready; seconds of the classification that replaces mask pooling, totals, ratios."""
    frames = comparison.frames
    ways: dict[str, dict[str, Any]] = {}
    for name, way in comparison.ways.items():
        seconds = {
            kind: {stage: total / frames for stage, total in stages.items()} | {"total": sum(stages.values()) / frames}
            for kind, stages in way.seconds.items()
        }
        named = {
            form: 100 * right / comparison.matched if comparison.matched else None for form, right in way.right.items()
        }
        scores = {form: board.scores() for form, board in way.boards.items()}
        ways[name] = {"seconds": seconds, "crops": way.crops / frames, "named_right": named, "scores": scores}
    single = ways[SINGLE]["seconds"]
    for entry in ways.values():
        entry["times_single_pass"] = {
            kind: {stage: entry["seconds"][kind][stage] / single[kind][stage] for stage in ("classification", "total")}
            for kind in single
        }
    return {
        "frames": frames,
        "queries": comparison.queries / frames,
        "surviving": comparison.surviving / frames,
        "matched_segments": comparison.matched,
        "units": "seconds and numbers a frame; scores and named_right in per cent",
        "ways": ways,
    }


def show_stages(result: dict[str, Any]) -> None:
    """Prints a row for each stage, a column for each way: CPU seconds per frame; then totals over the single pass's."""
    ways = result["ways"].values()
    rows = [["crops", *(f"{way['crops']:.1f}" for way in ways)]]
    rows += [[stage, *(way["seconds"]["cpu"][stage] for way in ways)] for stage in STAGES]
    for kind, what in (("cpu", "CPU seconds"), ("wall", "seconds by the clock")):
        rows.append([what, *(way["seconds"][kind]["total"] for way in ways)])
        rows.append(["times single pass", *(f"{way['times_single_pass'][kind]['total']:.2f}" for way in ways)])
    print_table({"CPU seconds per frame": ""} | dict.fromkeys(result["ways"], ".4f"), rows)


def show_names(result: dict[str, Any]) -> None:
    """Prints a row for each way and form: how many of the same masks are named right, and panoptic quality."""
    groups = ("all", "seen", "unseen")
    rows = [
        [name, form, way["named_right"][form], *(way["scores"][form].get(f"pq.{group}") for group in groups)]
        for name, way in result["ways"].items()
        for form in FORMS
    ]
    columns = {"masks named by": "", "with": "", "right": ".1f"} | {f"PQ {group}": ".1f" for group in groups}
    title = f"percent of {result['matched_segments']} segments named right, on the same masks; panoptic quality"
    print_table(columns, rows, title)


if __name__ == "__main__":
    main()
