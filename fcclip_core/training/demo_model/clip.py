"""The small CLIP: contrastive training on windows of the simulated world, with all of its classes.

It replaces the web-scale training of the real CLIP. Besides crops with captions, it is trained on masks with class
names, through the head with which FC-CLIP pools masks: with a few million windows instead of billions of images,
training on crops alone does not align crops and mask-pooled features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from fcclip_core import distributed
from fcclip_core.errors import CheckpointError, TrainingError
from fcclip_core.model.backbone import ConvNeXtTower
from fcclip_core.model.config import CONVNEXT_SMALL, ConvNeXtConfig, ModelConfig
from fcclip_core.model.text_tower import TextTower
from fcclip_core.training.demo_model.contrastive import contrastive_loss, pairings, write_caption
from fcclip_core.training.demo_model.depthwise import speed_up_depthwise
from fcclip_core.training.demo_model.windows import Samples, WindowBatch, WindowKind, draw_windows
from fcclip_core.training.journal import Journal
from fcclip_core.training.resume import TrainingState, load_state, save_state
from fcclip_core.vocabulary.text_embeddings import tokenize
from fcclip_core.weights.clip_weights import load_clip
from fcclip_core.weights.published_layout import CLIP_SCALE
from fcclip_core.weights.published_names import CLIP_PREFIX, published_name
from fcclip_core.weights.weight_files import write_safetensors

STATE_FILE = "clip_resume.pt"
CLIP_FILE = "clip.safetensors"
LOG_EVERY = 60
"""Steps per log entry, a multiple of the period of the recipe's windows; the entry has their mean loss."""
SAVE_SECONDS = 180.0

_LAYER_SCALE = 0.2
_close = partial(WindowKind, wide=False)
_wide = partial(WindowKind, wide=True)
_far = partial(WindowKind, wide=True, sides=(340, 600))  # shows larger parts of a frame


@dataclass(frozen=True)
class Phase:
    """A phase of a training run.

    Attributes:
        steps: Duration; the last phase of a recipe lasts until the end of the run.
        windows: The kinds of windows of its batches, in rotation.
        all_captions: Whether captions of classes that are not in a batch are added as negatives, because batches of few
            windows contain few classes.
    """

    steps: int
    windows: tuple[WindowKind, ...]
    all_captions: bool = True


@dataclass(frozen=True)
class ClipRecipe:
    """The training recipe of the small CLIP.

    Attributes:
        steps: Total optimizer steps. The only field that may change when a run is resumed.
        seed: Determines initial weights, windows and captions.
        learning_rate: AdamW's learning rate after warm-up and before the decay.
        weight_decay: AdamW's weight decay for matrices; vectors and embeddings are exempt.
        warmup: Steps of linear warm-up.
        decay_share: Fraction of the steps, at the end, in which the learning rate decays linearly to zero.
        gradient_clip: Largest norm of the gradient.
        phases: Composition of the batches: first crops of 64 pixels only, the cheapest way to learn shapes, then larger
            crops and parts of frames, at the scale at which FC-CLIP will see them.
        bfloat16: Autocast; about one and a half times as fast on a CPU with AVX-512 bf16.
    """

    steps: int = 13_500
    seed: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    decay_share: float = 0.3
    gradient_clip: float = 1.0
    phases: tuple[Phase, ...] = (
        Phase(2000, (_close(64, 96),), all_captions=False),
        Phase(2122, (_close(96, 48), _far(160, 18), _close(64, 96), _far(192, 12), _close(96, 48), _far(160, 18))),
        Phase(0, (_close(96, 48), _wide(192, 12), _close(128, 28), _wide(224, 9))),
    )
    bfloat16: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of `step`, from 0."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay_share * self.steps))
        return self.learning_rate * rise * fall

    def phase(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        *earlier, last = self.phases
        for phase in earlier:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return last

    def window(self, step: int) -> WindowKind:
        """The kind of windows in the batch of `step`."""
        windows = self.phase(step).windows
        return windows[step % len(windows)]

    def fixed(self) -> dict[str, Any]:
        """The fields that must not change when a run is resumed."""
        fields = asdict(self)
        del fields["steps"]
        return fields


class SmallClip(nn.Module):
    """Image tower, text tower and logit scale: the part of a checkpoint that FC-CLIP freezes."""

    def __init__(self, config: ModelConfig = CONVNEXT_SMALL) -> None:
        """Builds both towers of `config`, untrained.

        Raises:
            CheckpointError: The image tower is not a ConvNeXt.
        """
        super().__init__()
        if not isinstance(config.vision, ConvNeXtConfig):
            raise CheckpointError(f"{config.name} has no ConvNeXt tower, which the small CLIP requires")
        self.config = config
        self.image = ConvNeXtTower(config.vision, config.embed_dim)
        self.text = TextTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.text.token_embedding.weight, std=0.02)
        for name, parameter in self.image.named_parameters():
            # timm's initial value of 1e-6 is for hundreds of thousands of steps.
            if name.endswith("gamma"):
                nn.init.constant_(parameter, _LAYER_SCALE)

    @classmethod
    def load(cls, path: Path, config: ModelConfig = CONVNEXT_SMALL) -> SmallClip:
        """Loads a file written by `export_clip`, in eval mode.

        Raises:
            CheckpointError: The file is missing, damaged, or has other sizes.
        """
        tensors = load_clip(config, path).tensors
        model = cls(config)
        expected = model.published_state()
        if {key: tensor.shape for key, tensor in tensors.items()} != {key: t.shape for key, t in expected.items()}:
            raise CheckpointError(f"{path} is not the CLIP of {config.name}; create it with `fcclip train world-clip`")
        image = {name: tensors[published_name(f"backbone.{name}")] for name in model.image.state_dict()}
        model.image.load_state_dict(image)
        model.text.load_state_dict({name: tensors[CLIP_PREFIX + name] for name in model.text.state_dict()})
        model.logit_scale.data.copy_(tensors[CLIP_SCALE])
        return model.eval()

    def embed(self, batch: WindowBatch) -> Tensor:
        """Embeds the named masks of a batch: `(M, D)`, not normalized."""
        features = self.image(batch.images.contiguous(memory_format=torch.channels_last)).res5
        embeddings = self.image.embed_masks(features, batch.masks)
        return embeddings[batch.positions[:, 0], batch.positions[:, 1]]

    def published_state(self) -> dict[str, Tensor]:
        """Tensors under published keys, float32."""
        image = {published_name(f"backbone.{name}"): tensor for name, tensor in self.image.state_dict().items()}
        text = {CLIP_PREFIX + name: tensor for name, tensor in self.text.state_dict().items()}
        state = {**image, **text, CLIP_SCALE: self.logit_scale}
        return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}


class ClipTraining:
    """A contrastive training run that resumes from its state file.

    Every random choice depends only on the recipe's seed, the step and the worker, so a resumed run is identical to an
    uninterrupted one. With `torchrun`, each worker draws its own windows, and gradients are averaged.
    """

    def __init__(
        self,
        samples: Samples,
        names: Sequence[str],
        things: Sequence[bool],
        recipe: ClipRecipe,
        folder: Path,
        config: ModelConfig = CONVNEXT_SMALL,
        device: torch.device | str = "cpu",
        build: Callable[[ModelConfig], SmallClip] = SmallClip,
    ) -> None:
        """Builds the towers, or resumes from the state in `folder`.

        Args:
            samples: Labeled frames.
            names: Name of each class.
            things: Whether each class is a thing.
            recipe: The recipe.
            folder: Folder of the run's state and log, created if needed.
            config: Sizes of both towers.
            device: Training device.
            build: Builds both towers; called with torch's seed set.

        Raises:
            TrainingError: The state is damaged or belongs to another run.
        """
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        self.model = build(config).to(self.device).to(memory_format=torch.channels_last)
        groups = _parameter_groups(self.model, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        if self.device.type == "cpu":
            speed_up_depthwise(self.model.image)
        self.step = 0
        self._samples, self._names, self._things = samples, names, things
        self._tokens: dict[str, Tensor] = {}
        self._identity = {"recipe": repr(recipe.fixed()), "sizes": repr(config), "classes": "; ".join(names)}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            self._resume()

    def run(self, until: int | None = None) -> None:
        """Trains up to step `until` and saves; None: the recipe's last step.

        Raises:
            TrainingError: The loss is not finite, or the state cannot be saved.
        """
        self.model.train()
        last = self.recipe.steps if until is None else min(until, self.recipe.steps)
        saved = time.monotonic()
        losses: list[float] = []
        with Journal(self.folder, self.step, self.recipe.steps) as journal:
            while self.step < last:
                losses.append(self._one_step())
                self.step += 1
                journal.advance(self.step)
                if self.step % LOG_EVERY == 0:
                    journal.write({"step": self.step - 1, "loss": sum(losses) / len(losses)})
                    losses.clear()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def save(self) -> None:
        """Writes the state file atomically, in the first worker only.

        Raises:
            TrainingError: The file cannot be written.
        """
        if distributed.is_first():
            state = TrainingState(self.step, self._identity, self.model.state_dict(), self.optimizer.state_dict())
            save_state(self.folder / STATE_FILE, state)

    def _resume(self) -> None:
        state = load_state(self.folder / STATE_FILE, self._identity)
        self.model.load_state_dict(state.parameters)
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.step = state.step

    def _one_step(self) -> float:
        generator = np.random.default_rng((self.recipe.seed, self.step, distributed.rank()))
        batch = draw_windows(self._samples, self._things, self.recipe.window(self.step), generator)
        others = range(len(self._names)) if self.recipe.phase(self.step).all_captions else ()
        sets, matches, ignored = pairings(batch.named, others)
        captions = [write_caption([self._names[index] for index in sorted(named)], generator) for named in sets]
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            images = self.model.embed(_on(batch, self.device))
            # On a CPU, for captions of a dozen tokens, three times as fast as the fused kernel, backward pass included.
            with sdpa_kernel(SDPBackend.MATH):
                texts = self.model.text(self._tokenized(captions).to(self.device))
        loss = contrastive_loss(images, texts, self.model.logit_scale, matches.to(self.device), ignored.to(self.device))
        loss.backward()
        _average_over_workers(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss of step {self.step} is {value}; lower the learning rate")
        return value

    def _tokenized(self, captions: Sequence[str]) -> Tensor:
        """Tokens `(K, L)`; the tokens of each caption are cached."""
        for caption in captions:
            if caption not in self._tokens:
                self._tokens[caption] = tokenize([caption])[0]
        return pad_sequence([self._tokens[caption] for caption in captions], batch_first=True)


def export_clip(path: Path, model: SmallClip) -> None:
    """Writes both towers atomically as a .safetensors file for `--clip`.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_safetensors(path, model.published_state())


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embedding" in name
        (exempt if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]


def _average_over_workers(model: nn.Module) -> None:
    """Replaces gradients by their mean over all workers, with one all-reduce."""
    if distributed.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    mean = distributed.sum_over_workers(torch.cat([gradient.flatten() for gradient in gradients]))
    mean /= distributed.world_size()
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _on(batch: WindowBatch, device: torch.device) -> WindowBatch:
    return WindowBatch(batch.images.to(device), batch.masks.to(device), batch.positions.to(device), batch.named)
