"""Configuration of a training run; the defaults are those of the paper's training on COCO (section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from fcclip_core.errors import SettingsError

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and of the matching costs, and sampling of mask points.

    Attributes:
        class_weight: Weight of the cross-entropy over text embeddings.
        mask_weight: Weight of the binary cross-entropy on points.
        dice_weight: Weight of the dice loss on points.
        void_weight: Weight of unmatched queries inside the cross-entropy.
        num_points: Points at which two masks are compared.
        oversample_ratio: Candidates drawn per point, from which the most uncertain are selected.
        importance_ratio: Fraction of points that are the most uncertain candidates; the others are uniform.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    void_weight: float = 0.1
    num_points: int = 12_544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            SettingsError: A number is out of range.
        """
        _check("num_points", self.num_points, self.num_points >= 1, "at least 1")
        _check("oversample_ratio", self.oversample_ratio, self.oversample_ratio >= 1, "at least 1")
        _check("importance_ratio", self.importance_ratio, 0 <= self.importance_ratio <= 1, "between 0 and 1")


@dataclass(frozen=True)
class KMeansLossConfig:
    """The loss of models with a k-means mask decoder; the defaults are kMaX-DeepLab's on COCO.

    Attributes:
        class_weight: Weight of the cross-entropy over text embeddings.
        mask_weight: Weight of the cross-entropy over queries at each pixel.
        dice_weight: Weight of the dice loss.
        pixel_weight: Weight of the pixel instance discrimination.
        sampled_pixels: Pixels that the discrimination compares with each other, in each image.
        area_exponent: Power of a segment's inverse area by which its pixels are preferred.
    """

    class_weight: float = 3.0
    mask_weight: float = 0.3
    dice_weight: float = 3.0
    pixel_weight: float = 1.0
    sampled_pixels: int = 4096
    area_exponent: float = 1.5

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            SettingsError: A number is out of range.
        """
        _check("sampled_pixels", self.sampled_pixels, self.sampled_pixels >= 1, "at least 1")


@dataclass(frozen=True)
class PolySchedule:
    """A learning rate that rises for a while and then falls to zero as a power of the steps that are left.

    Attributes:
        warm_up: Share of the steps in which the rate rises linearly; the fall counts from step 0, too. The default is
            kMaX-DeepLab's 5,000 of 150,000.
        first: Share of the rate in step 0.
        power: Of the share of steps that are left.
    """

    warm_up: float = 1 / 30
    first: float = 0.001
    power: float = 0.9

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            SettingsError: A number is out of range.
        """
        _check("warm_up", self.warm_up, 0 <= self.warm_up <= 1, "between 0 and 1")
        _check("first", self.first, 0 < self.first <= 1, "above 0 and at most 1")
        _check("power", self.power, self.power > 0, "above 0")

    def share(self, step: int, steps: int) -> float:
        """The rate in `step` of `steps`, counted from 0, relative to `TrainingConfig.learning_rate`."""
        rise = round(self.warm_up * steps)
        risen = min(1.0, self.first + (1 - self.first) * step / rise) if rise else 1.0
        return risen * max(0.0, 1 - step / steps) ** self.power


@dataclass(frozen=True)
class AugmentationConfig:
    """Flip and large-scale jitter (Ghiasi et al., 2021).

    Attributes:
        crop: Side of the square training crops in pixels; divisible by 32.
        min_scale: Smallest size of the longer image side, relative to `crop`.
        max_scale: Largest size of the longer image side, relative to `crop`.
        flip: Probability of a horizontal flip.
        keep_cropped_out: Whether a segment outside of the crop remains a target with an empty mask (published).
    """

    crop: int = 1024
    min_scale: float = 0.1
    max_scale: float = 2.0
    flip: float = 0.5
    keep_cropped_out: bool = True

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            SettingsError: A number is out of range.
        """
        _check("crop", self.crop, self.crop >= 32 and self.crop % 32 == 0, "a multiple of 32")
        _check("min_scale", self.min_scale, 0 < self.min_scale <= self.max_scale, "above 0 and at most max_scale")
        _check("flip", self.flip, 0 <= self.flip <= 1, "between 0 and 1")


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        steps: Total optimizer steps.
        batch_size: Images per step, over all workers.
        learning_rate: AdamW's initial learning rate.
        milestones: Steps at which the learning rate is multiplied by `decay`; None: at `slow_down`.
        slow_down: Shares of `steps` at which it is, so that a run of another length slows down where it should.
        decay: See `milestones`.
        poly: The schedule of models with a k-means mask decoder, in place of milestones; None: milestones.
        weight_decay: AdamW's weight decay; normalization layers and embeddings are exempt.
        decay_vectors: Whether biases and other vectors decay, too.
        gradient_clip: Largest norm of the gradient of all parameters; infinite: any.
        statistics_momentum: Share of a step's images in the running statistics of trained batch normalizations; short
            runs need more than kMaX-DeepLab's.
        freeze_statistics: Step from which trained batch normalizations use and keep their running statistics, which
            are those of the batch before, over all workers; None: never.
        train_backbone: Also train CLIP's image tower (ablation in Table 6).
        backbone_rate: The tower's learning rate relative to `learning_rate`.
        precision: "float32", "bfloat16" (autocast; pixel decoder and losses stay in float32), or "auto": bfloat16 on a
            GPU, float32 on a CPU.
        seed: Determines initial weights, order of samples, augmentation and sampled points.
        loss: The loss, of the kind that the model's mask decoder is trained with.
        augmentation: The augmentation.
        save_every: Steps between saved states.
        export_every: Steps between exported checkpoints, which are all kept; 0: only the final one.
        log_every: Steps between log entries.
        loader_processes: Processes per worker that prepare samples; 0: the training process does.
    """

    steps: int = 368_750
    batch_size: int = 16
    learning_rate: float = 1e-4
    milestones: tuple[int, ...] | None = None
    slow_down: tuple[float, ...] = (327_778 / 368_750, 355_092 / 368_750)
    decay: float = 0.1
    poly: PolySchedule | None = None
    weight_decay: float = 0.05
    decay_vectors: bool = True
    gradient_clip: float = 0.01
    statistics_momentum: float = 0.01
    freeze_statistics: int | None = None
    train_backbone: bool = False
    backbone_rate: float = 0.1
    precision: str = "auto"
    seed: int = 0
    loss: LossConfig | KMeansLossConfig = field(default_factory=LossConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    save_every: int = 500
    export_every: int = 0
    log_every: int = 20
    loader_processes: int = 4

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            SettingsError: A number is out of range.
        """
        for name in ("steps", "batch_size", "save_every", "log_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("export_every", "loader_processes", "seed", "weight_decay"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        momentum = self.statistics_momentum
        _check("statistics_momentum", momentum, 0 < momentum <= 1, "above 0 and at most 1")
        frozen_from = self.freeze_statistics
        _check("freeze_statistics", frozen_from, frozen_from is None or frozen_from >= 0, "0 or more")
        for name in ("learning_rate", "gradient_clip"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("milestones", "slow_down"):
            given = getattr(self, name) or ()
            _check(name, given, list(given) == sorted(given), "in ascending order")
        _check("precision", self.precision, self.precision in PRECISIONS, "one of " + ", ".join(PRECISIONS))

    @property
    def drops(self) -> tuple[int, ...]:
        """The steps at which the learning rate falls: `milestones`, or where `slow_down` places them."""
        if self.milestones is not None:
            return self.milestones
        return tuple(round(share * self.steps) for share in self.slow_down)


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise SettingsError(f"{name} is {value}; it must be {expected}")
