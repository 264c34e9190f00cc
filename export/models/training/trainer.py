"""Fine-tuning: cached front, balanced batches with mosaics, averaged weights, checkpoints."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.banks.numbers import check_finite
from foldcam.export.datasets import Sample, SkippedFile
from foldcam.export.datasets.reading import read_picture
from foldcam.export.models.spec import LoadedModel
from foldcam.export.models.trained_file import Architecture, embedding_network, save_network
from foldcam.export.models.training.front_cache import FrontCache, build_front_cache
from foldcam.export.models.training.losses import TrainingLoss, parse_loss
from foldcam.export.models.training.trainee import Trainee
from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, hidden_beside

StageProgress = Callable[[str, int, int], None]
Classes = npt.NDArray[np.int64]

# The new projection learns faster than what is pretrained.
_PROJECTION_FACTOR = 5.0
_WARM_UP = 0.15
_AVERAGE_FROM = 0.3
_LARGEST_GRADIENT = 5.0


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is fine-tuned.

    Attributes:
        embedding_size: `D` of a new projection, or None to keep the network's own
            embedding.
        loss: a loss of pytorch-metric-learning with arguments, or `kernel:tau=0.1`
            for continuous labels.
        miner: a miner of the same library, or None.
        epochs: passes over the images; one pass is `images / batch` steps.
        labels_per_batch, images_per_label: the batch; for continuous labels
            `labels_per_batch * images_per_label` images.
        views: cached views per image: plain, mirrored, then random crops.
        mosaics: cached mosaics in all, 0 for none.
        mosaics_per_batch: the number of mosaics in each batch.
        learning_rate: the learning rate of the pretrained part at its peak.
        weight_decay: the weight decay of AdamW.
        average: factor of the running average of the weights that is kept.
        train_from: layer after which the network learns, or None to choose.
        seed: the seed of all random choices.
        device: `auto`, `cpu` or `cuda`.
    """

    embedding_size: int | None = 128
    loss: str = "SupConLoss:temperature=0.14"
    miner: str | None = None
    epochs: int = 30
    labels_per_batch: int = 8
    images_per_label: int = 2
    views: int = 9
    mosaics: int = 600
    mosaics_per_batch: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    average: float = 0.97
    train_from: str | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        path: the network's file.
        train_from: layer after which it learned.
        steps: optimiser steps in all.
        resumed_at: step at which this call began; 0 if from the start.
        losses: one per step of this call.
        skipped: images that could not be read.
    """

    path: Path
    train_from: str
    steps: int
    resumed_at: int
    losses: list[float]
    skipped: list[SkippedFile]


def train(
    base: LoadedModel,
    samples: Sequence[Sample],
    out: Path,
    options: TrainingOptions,
    *,
    groups: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    progress: StageProgress | None = None,
) -> TrainReport:
    """Fine-tune a network and write it to one file that MODEL can name.

    Interrupted, it goes on from the last finished epoch when called again with the
    same arguments. The same arguments give the same file on the same machine.

    Args:
        base: the pretrained network. With an embedding size, its output must be
            features that are not normalised.
        samples: the training images. For the loss `kernel` each has a value.
        out: the safetensors file.
        options: see `TrainingOptions`.
        groups: one per sample: each batch is of one group (kinds of photographs
            whose values are not to be compared with each other's).
        preprocessing: overrides the base's own.
        progress: called with `(stage, done, total)`.

    Raises:
        FoldcamError: unreadable data, too few labels, a network or loss that
            cannot be used, an output that cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from foldcam import TrainingOptions, load_dataset, load_model, train
        >>> options = TrainingOptions(
        ...     embedding_size=None, epochs=1, labels_per_batch=3, views=2, mosaics=0,
        ...     mosaics_per_batch=0, device="cpu")
        >>> base = load_model("my_network:make_network")
        >>> report = train(base, load_dataset("photos").samples, Path("net.safetensors"), options)
        >>> report.path.name, len(report.losses) == report.steps
        ('net.safetensors', True)
        >>> trained = load_model("my_network:make_network", weights="net.safetensors")
    """
    if out.suffix != ".safetensors":
        raise FoldcamError(f"--out {out}: a trained network is a .safetensors file.")
    preprocessing = preprocessing or base.preprocessing
    progress = progress or (lambda *_: None)
    torch.manual_seed(options.seed)
    architecture = Architecture(base.name, options.embedding_size, preprocessing)
    # The base stays as it is: what is trained from it next must not know these images.
    module = embedding_network(deepcopy(base.module), architecture)
    trainee = Trainee(module, (preprocessing.height, preprocessing.width), options.train_from)
    images, kept, skipped = _read(samples, progress)
    targets = _targets([samples[n] for n in kept], options)
    folder = hidden_beside(out, "resume")
    parts = [groups[n] for n in kept] if groups else None
    batches = _Batches(options, targets, parts)
    work = folder / training_hash(base, preprocessing, options, [samples[n] for n in kept], parts)
    cache = build_front_cache(
        trainee,
        preprocessing,
        images,
        targets.classes,
        work,
        views=options.views,
        mosaics=options.mosaics,
        seed=options.seed,
        progress=progress,
    )
    read = [samples[n] for n in kept]
    learner = _Learner(trainee, cache, targets, batches, options, read)
    resumed_at = learner.resume(work / "checkpoint.pt")
    losses: list[float] = []
    for step in range(resumed_at, batches.steps):
        losses.append(learner.step(step))
        progress("training", step + 1, batches.steps)
        if (step + 1) % batches.steps_per_epoch == 0:
            learner.checkpoint(work / "checkpoint.pt", step + 1)
    learner.use_average()
    module.load_state_dict(trainee.whole.state_dict(), strict=False)
    save_network(out, module, architecture, {"options": asdict(options), "steps": batches.steps})
    shutil.rmtree(folder, ignore_errors=True)
    return TrainReport(out, trainee.train_from, batches.steps, resumed_at, losses, skipped)


@dataclass(frozen=True)
class _Targets:
    """Class numbers, and for continuous labels the standardised values."""

    classes: Classes
    values: npt.NDArray[np.float32] | None


class _Batches:
    """Which images and mosaics each step sees: a function of seed and step alone."""

    def __init__(
        self, options: TrainingOptions, targets: _Targets, groups: Sequence[str] | None
    ) -> None:
        self._options = options
        self._continuous = targets.values is not None
        parts: npt.ArrayLike = groups if groups is not None else targets.classes
        if self._continuous and groups is None:
            parts = np.zeros(len(targets.classes))
        self._members = [
            np.flatnonzero(np.asarray(parts) == part) for part in np.unique(np.asarray(parts))
        ]
        labels = min(options.labels_per_batch, len(self._members))
        self.size = (
            options.labels_per_batch * options.images_per_label
            if self._continuous
            else labels * options.images_per_label
        )
        self._labels = labels
        self.steps_per_epoch = max(1, len(targets.classes) // self.size)
        self.steps = max(2, options.epochs * self.steps_per_epoch)

    def draw(self, step: int) -> tuple[Classes, Classes, Classes]:
        """Images, the view of each, and mosaics."""
        options = self._options
        generator = np.random.default_rng([options.seed, 2, step])
        if self._continuous:
            group = self._members[int(generator.integers(len(self._members)))]
            images = generator.choice(group, min(self.size, len(group)), replace=False)
        else:
            chosen = generator.permutation(len(self._members))[: self._labels]
            images = np.concatenate(
                [
                    generator.choice(
                        self._members[n],
                        min(options.images_per_label, len(self._members[n])),
                        replace=False,
                    )
                    for n in chosen
                ]
            )
        views = generator.integers(options.views, size=len(images))
        count = min(options.mosaics_per_batch, options.mosaics)
        mosaics = np.zeros(0, np.int64)
        if count:
            mosaics = generator.choice(options.mosaics, count, replace=False)
        return images, views, mosaics


class _Learner:
    """Weights, optimiser and their average."""

    def __init__(
        self,
        trainee: Trainee,
        cache: FrontCache,
        targets: _Targets,
        batches: _Batches,
        options: TrainingOptions,
        samples: Sequence[Sample],
    ) -> None:
        self._samples = samples
        self._device = _device(options.device)
        self._trainee = trainee.to(self._device)
        self._cache, self._targets, self._batches = cache, targets, batches
        self._average_factor = options.average
        self._loss: TrainingLoss = parse_loss(
            options.loss,
            options.miner,
            int(targets.classes.max()) + 1,
            options.embedding_size or self._embedding_size(),
        )
        slow = [p for name, p in trainee.learning if "projection" not in name]
        fast = [p for name, p in trainee.learning if "projection" in name]
        own = []
        if self._loss.module is not None:
            own = list(self._loss.module.to(self._device).parameters())
        rates = [options.learning_rate, options.learning_rate * _PROJECTION_FACTOR, 1e-2]
        decays = [options.weight_decay, options.weight_decay, 0.0]
        groups: list[dict[str, Any]] = [
            {"params": params, "lr": rate, "weight_decay": decay}
            for params, rate, decay in zip((slow, fast, own), rates, decays, strict=True)
            if params
        ]
        self._optimizer = torch.optim.AdamW(groups)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            [group["lr"] for group in groups],
            total_steps=batches.steps,
            pct_start=_WARM_UP,
        )
        self._average: dict[str, torch.Tensor] = {}

    def step(self, step: int) -> float:
        """One optimiser step; returns the loss."""
        images, views, mosaics = self._batches.draw(step)
        embeddings, labels = self._embed(images, views, mosaics)
        loss = self._loss.function(embeddings, labels)
        if not torch.isfinite(loss):
            whole = embeddings[: len(images)].detach().cpu().numpy()
            if np.isfinite(whole).any(axis=1).any():
                # One of the images, and not the training, is at fault.
                check_finite(whole, [self._samples[number] for number in images])
            raise FoldcamError(
                f"The loss is not finite at step {step + 1}: lower --learning-rate, or choose "
                "another --loss."
            )
        self._optimizer.zero_grad()
        if loss.requires_grad:
            torch.autograd.backward(loss)
            learning = [parameter for _, parameter in self._trainee.learning]
            torch.nn.utils.clip_grad_norm_(learning, _LARGEST_GRADIENT)
        self._optimizer.step()
        self._schedule.step()
        self._follow(step)
        return float(loss.detach())

    def checkpoint(self, path: Path, step: int) -> None:
        """Keep everything that the next step depends on."""
        state = {
            "step": step,
            "weights": {name: p.detach() for name, p in self._trainee.learning},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average,
            "loss": self._loss.module.state_dict() if self._loss.module else {},
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> int:
        """Go on from a checkpoint; returns the step to begin at."""
        if not path.exists():
            return 0
        try:
            state: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
        except Exception:
            # Damaged: training begins again.
            return 0
        with torch.no_grad():
            for name, parameter in self._trainee.learning:
                parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._average = state["average"]
        if self._loss.module is not None:
            self._loss.module.load_state_dict(state["loss"])
        return int(state["step"])

    @torch.no_grad()
    def use_average(self) -> None:
        """Replace the weights by their running average, and return to the CPU."""
        for name, parameter in self._trainee.learning:
            if name in self._average:
                parameter.copy_(self._average[name])
        self._trainee.cpu()

    def _embed(
        self, images: Classes, views: Classes, mosaics: Classes
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and labels of the batch: whole images, then the cells of the mosaics."""
        front = [self._tensor(part[views, images]) for part in self._cache.views]
        if len(mosaics):
            front = [
                torch.cat([whole, self._tensor(part[mosaics])])
                for whole, part in zip(front, self._cache.mosaics, strict=True)
            ]
        feature_map, context = self._trainee.feature_maps(front)
        count = len(images)
        whole = self._trainee.embed(feature_map[:count], [value[:count] for value in context])
        if self._targets.values is not None:
            return whole, self._tensor(self._targets.values[images])
        labels = self._targets.classes[images]
        if not len(mosaics):
            return whole, torch.from_numpy(labels).to(self._device)
        regions = self._trainee.embed_regions(
            feature_map[count:],
            [value[count:] for value in context],
            self._tensor(self._cache.masks[mosaics]),
        )
        subjects = self._cache.subjects[mosaics]
        labels = np.concatenate([labels, self._targets.classes[subjects[subjects >= 0]]])
        return torch.cat([whole, regions]), torch.from_numpy(labels).to(self._device)

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        if step < self._batches.steps * _AVERAGE_FROM:
            return
        for name, parameter in self._trainee.learning:
            if name in self._average:
                self._average[name].lerp_(parameter.detach(), 1 - self._average_factor)
            else:
                self._average[name] = parameter.detach().clone()

    def _embedding_size(self) -> int:
        images, views, _ = self._batches.draw(0)
        none = np.zeros(0, np.int64)
        with torch.no_grad():
            embeddings, _ = self._embed(images[:2], views[:2], none)
        return int(embeddings.shape[1])

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self._device)


def _read(
    samples: Sequence[Sample], progress: StageProgress
) -> tuple[list[Image], list[int], list[SkippedFile]]:
    images: list[Image] = []
    kept: list[int] = []
    skipped: list[SkippedFile] = []
    for number, sample in enumerate(samples):
        try:
            images.append(read_picture(sample).image)
            kept.append(number)
        except FoldcamError as error:
            skipped.append(SkippedFile(sample.path, str(error)))
        progress("reading", number + 1, len(samples))
    if not images:
        raise FoldcamError(f"None of the images could be read; the first: {skipped[0].reason}")
    return images, kept, skipped


def _targets(samples: Sequence[Sample], options: TrainingOptions) -> _Targets:
    if options.loss.partition(":")[0] == "kernel":
        values = np.asarray([sample.value for sample in samples], np.float64)
        if not np.isfinite(values).all() or values.std() == 0:
            raise FoldcamError("The loss kernel needs continuous labels that are not all equal.")
        standard = ((values - values.mean()) / values.std()).astype(np.float32)
        return _Targets(np.zeros(len(samples), np.int64), standard)
    _, classes = np.unique([sample.label for sample in samples], return_inverse=True)
    if classes.max() < 1:
        raise FoldcamError("All images have one label: training needs at least two.")
    return _Targets(classes.astype(np.int64), None)


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FoldcamError("--device cuda: torch finds no CUDA device here.")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def training_hash(
    base: LoadedModel,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    samples: Sequence[Sample],
    groups: Sequence[str] | None = None,
) -> str:
    """The hash of everything that a trained network depends on; see `train`."""
    digest = hashlib.sha256(
        f"{base.name} {base.weights} {preprocessing} {options} {groups}".encode()
    )
    for name, tensor in sorted(base.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for sample in samples:
        status = sample.path.stat()
        stamp = f"{sample.label} {sample.value} {status.st_size} {status.st_mtime_ns}"
        name = sample.name.rpartition("/")[2]
        digest.update(f"{name} {stamp};".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
