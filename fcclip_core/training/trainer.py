"""The training loop, which saves its state regularly and exports a checkpoint at the end.

Run the same command again to resume: the loss curve continues exactly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcclip_core import distributed
from fcclip_core.datasets.records import Dataset
from fcclip_core.errors import TrainingError
from fcclip_core.files.cache_folder import cache_folder
from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoder_config import KMeansDecoderConfig
from fcclip_core.training.batch_statistics import (
    running_statistics,
    trained_norms,
    use_batch,
    with_shared_statistics,
)
from fcclip_core.training.config import KMeansLossConfig, TrainingConfig
from fcclip_core.training.criteria import loss_function
from fcclip_core.training.journal import Journal
from fcclip_core.training.losses import Losses
from fcclip_core.training.network import TrainingNetwork
from fcclip_core.training.optimization import learning_rate, parameter_groups, trained_parameters
from fcclip_core.training.resume import FREE, TrainingState, load_state, save_state, schedule_changes, schedule_of
from fcclip_core.training.sampling import Batch, batches, point_generators
from fcclip_core.vocabulary.text_embeddings import TextEncoder, TextRows
from fcclip_core.weights.checkpoints import Checkpoint, load_model, save_checkpoint
from fcclip_core.weights.published_names import published_name

_logger = logging.getLogger(__name__)

_KNOWN = object()
_NEW = {"poly": None, "decay_vectors": True, "statistics_momentum": 0.01, "freeze_statistics": None}
"""Settings that version 0.1 did not know, and their defaults."""

STATE_FILE = "resume.pt"
MODEL_FILE = "model.safetensors"


class Trainer:
    """Trains FC-CLIP on a panoptic or semantic dataset.

    Attributes:
        step: Completed steps.
        changes: What other steps or milestones change in the resumed run, as one line; empty if nothing.
    """

    def __init__(
        self,
        config: TrainingConfig,
        checkpoint: Checkpoint,
        dataset: Dataset,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        text_rows: Tensor | None = None,
    ) -> None:
        """Prepares a run, or resumes the run in `folder`.

        Args:
            config: The recipe.
            checkpoint: Initial weights. Its training vocabulary has the dataset's classes in the same order.
            dataset: The training data; of a semantic sample each class region is one target (`class_segments`).
            folder: Folder for states, log and checkpoints, created if needed.
            device: Training device; with several workers, the one of this worker.
            text_rows: float32 unit embeddings `(T, D)` of the training vocabulary's synonyms; None: computed by the
                text tower.

        Raises:
            TrainingError: The dataset does not match the vocabulary, the batch size is not divisible by the number of
                workers, or `folder` is unusable or contains another run.
        """
        vocabulary = checkpoint.train_vocabulary
        _check(config, checkpoint.config, len(vocabulary), dataset)
        self.config, self.folder, self.step, self.changes = config, folder, 0, ""
        self._checkpoint, self._dataset, self._device = checkpoint, dataset, torch.device(device)
        if text_rows is None:
            encoder = TextEncoder(checkpoint.text_tower, self._device)
            known = TextRows(encoder, checkpoint.text_tower_id, cache_folder(), width=checkpoint.config.embed_dim)
            text_rows = known.rows(vocabulary.synonyms)
        model = load_model(checkpoint)
        self._parameters = trained_parameters(model, config.train_backbone)
        for parameter in self._parameters.values():
            parameter.data = parameter.data.clone()  # the memory-mapped file must not be modified
            parameter.requires_grad_(True)
        with_shared_statistics(model, self._device, config.freeze_statistics)
        self._norms = trained_norms(model)
        for norm in self._norms:
            norm.momentum = config.statistics_momentum
            for name, buffer in norm.named_buffers(recurse=False):
                setattr(norm, name, buffer.clone())  # else the checkpoint's own would change
        self._network = TrainingNetwork(model, text_rows, vocabulary.synonym_counts).to(self._device)
        # What the steps change: parameters, and running statistics of batch normalizations.
        self._tensors: dict[str, Tensor] = self._parameters | running_statistics(model)
        self._loss_of = loss_function(config.loss)
        self._optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate)
        frozen = set(checkpoint.state) - {published_name(name) for name in self._tensors}
        self._identity = _identity(config, checkpoint, frozen, len(dataset))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"cannot create the output folder {folder}: {error.strerror or error}") from error
        if (folder / STATE_FILE).exists():
            self._resume()

    def run(self) -> Path:
        """Trains to the last step.

        Returns:
            The finished checkpoint.

        Raises:
            TrainingError: The loss is not finite, or a state cannot be saved.
            DatasetError: A sample is damaged.
        """
        self._require_one_step()
        with Journal(self.folder, self.step, self.config.steps) as journal:
            for batch in batches(self._dataset, self.config, self.step):
                losses, norm = self.make_step(batch)
                self._record(journal, losses, norm)
                self.step += 1
                if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                    self.save()
                if self.config.export_every and self.step % self.config.export_every == 0:
                    self.export(self.folder / f"step_{self.step:06d}.safetensors")
        self.export(self.folder / MODEL_FILE)
        return self.folder / MODEL_FILE

    def make_step(self, batch: Batch) -> tuple[Losses, float]:
        """Makes one optimizer step.

        Returns:
            The losses, and the norm of the gradient before clipping.

        Raises:
            TrainingError: One of them is not finite; the weights are unchanged.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(self.step, self.config)
        frozen_from = self.config.freeze_statistics
        use_batch(self._norms, frozen_from is None or self.step < frozen_from)
        generators = point_generators(self.config, self.step, self._device)
        try:
            with self._autocast():
                predictions = self._replica(batch.images.to(self._device, non_blocking=True))
            losses = self._loss_of(predictions, batch.targets.to(self._device), generators)
            if not math.isfinite(total := losses.total.item()):
                raise TrainingError(f"the loss is {total}")
            self._optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            norm = nn.utils.clip_grad_norm_(self._parameters.values(), self.config.gradient_clip).item()
            if not math.isfinite(norm):
                raise TrainingError(f"the gradient's norm is {norm}")
        except TrainingError as error:
            saved = self.folder / STATE_FILE
            raise TrainingError(
                f"training diverged in step {self.step}: {error}. The weights of this step were not changed"
                + (f"; {saved} is the last saved state" if saved.exists() else "")
                + ". Lower the learning rate, or train in float32"
            ) from error
        self._optimizer.step()
        return losses, norm

    def save(self) -> None:
        """Saves the state from which this run can be resumed.

        Raises:
            TrainingError: The file cannot be written; the previous state is intact.
        """
        if distributed.is_first():
            parameters = {name: tensor.detach() for name, tensor in self._tensors.items()}
            state = TrainingState(
                self.step, self._identity, parameters, self._optimizer.state_dict(), schedule_of(self.config)
            )
            save_state(self.folder / STATE_FILE, state)
        distributed.wait_for_all()

    def export(self, path: Path) -> None:
        """Writes the current weights as a checkpoint.

        Raises:
            CheckpointError: The file cannot be written.
        """
        if distributed.is_first():
            save_checkpoint(path, self.checkpoint())
        distributed.wait_for_all()

    def checkpoint(self) -> Checkpoint:
        """A checkpoint with the current weights."""
        trained = {
            published_name(name): (item.float() if item.is_floating_point() else item).detach().cpu()
            for name, item in self._tensors.items()
        }
        note = f"trained for {self.step} of {self.config.steps} steps on {self._dataset.name}"
        start = self._checkpoint
        provenance = replace(start.provenance, note="; ".join(filter(None, (start.provenance.note, note))))
        return replace(start, state={**start.state, **trained}, provenance=provenance)

    @cached_property
    def _replica(self) -> nn.Module:
        if distributed.world_size() == 1:
            return self._network
        return nn.parallel.DistributedDataParallel(self._network, broadcast_buffers=False)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        precision = self.config.precision
        enabled = precision == "bfloat16" or (precision == "auto" and self._device.type == "cuda")
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)

    def _record(self, journal: Journal, losses: Losses, norm: float) -> None:
        due = self.step % self.config.log_every == 0 or self.step == self.config.steps - 1
        if due:
            # Each worker divides by the mean over workers, so the mean of their losses is that of the whole batch.
            terms = torch.stack((losses.total, *losses.last.values())).detach()
            values = (distributed.sum_over_workers(terms) / distributed.world_size()).tolist()
            entry = {"step": self.step} | dict(zip(("loss", *losses.last), values, strict=True))
            journal.write(entry | {"gradient": norm, "rate": learning_rate(self.step, self.config)})
        journal.advance(self.step + 1)

    def _require_one_step(self) -> None:
        """Checks that all workers resume at the same step."""
        steps = distributed.sum_over_workers(torch.tensor([self.step], device=self._device)).item()
        if steps != self.step * distributed.world_size():
            raise TrainingError(
                f"the workers do not see the same saved state in {self.folder}; with several machines, the output "
                "folder must be on a shared file system"
            )

    def _resume(self) -> None:
        state = load_state(self.folder / STATE_FILE, self._identity)
        self.changes = schedule_changes(state, self.config)
        self._warn_of_another_rate(state)
        if set(state.parameters) != set(self._tensors):
            raise TrainingError(f"{self.folder / STATE_FILE} has other parameters than this model trains")
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state.parameters[name])
        self._optimizer.load_state_dict(dict(state.optimizer))
        self.step = state.step

    def _warn_of_another_rate(self, state: TrainingState) -> None:
        """Warns if a larger number of steps, which moves the milestones, raises the learning rate again."""
        group, next_rate = state.optimizer["param_groups"][0], learning_rate(state.step, self.config)
        last_rate = group["lr"] / group["share"]
        if state.step and next_rate > 1.5 * last_rate:
            until = next((step for step in self.config.drops if step > state.step), self.config.steps)
            _logger.warning(
                "the learning rate had dropped to %.3g by step %d; with %d steps it is %.3g again, until step %d",
                last_rate,
                state.step,
                self.config.steps,
                next_rate,
                until,
            )


def _check(config: TrainingConfig, model: ModelConfig, classes: int, dataset: Dataset) -> None:
    if isinstance(config.loss, KMeansLossConfig) != isinstance(model.mask_decoder, KMeansDecoderConfig):
        raise TrainingError(
            f"the loss does not fit {model.name}: a k-means mask decoder needs KMeansLossConfig, others LossConfig; "
            "recipe_for(model) has the right one"
        )
    if not len(dataset):
        raise TrainingError("the dataset is empty; there is nothing to train on")
    if len(dataset.classes) != classes:
        raise TrainingError(
            f"the dataset has {len(dataset.classes)} classes and the training vocabulary {classes}; they must have the "
            "same classes in the same order"
        )
    if config.batch_size % distributed.world_size():
        raise TrainingError(
            f"batch_size {config.batch_size} is not divisible by the number of workers, {distributed.world_size()}"
        )


def _identity(config: TrainingConfig, checkpoint: Checkpoint, frozen: set[str], samples: int) -> Mapping[str, Any]:
    """Properties that a run and the state that it resumes must share, in a form that messages can show."""
    checksum = 0
    for key in sorted(frozen):
        checksum = zlib.crc32(checkpoint.state[key].contiguous().view(-1).view(torch.uint8).numpy().data, checksum)
    # States of versions that did not know a setting belong to runs with its default.
    settings = {
        name: value for name, value in asdict(config).items() if name not in FREE and _NEW.get(name, _KNOWN) != value
    }
    return {
        "preset": checkpoint.config.name,
        "model": json.dumps(asdict(checkpoint.config)),
        "CLIP's weights (checksum)": f"{checksum:08x}",
        "text tower": checkpoint.text_tower_id,
        "classes": "; ".join(checkpoint.train_vocabulary.names),
        "samples": samples,
        **{name: json.dumps(value) for name, value in settings.items()},
    }
