"""The method interface: a dataclass of hyper-parameters and the one or two hooks it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

#: One entry per parameter of a group, None where a loss does not reach it.
Gradients = list[Tensor | None]


class Fuse(Protocol):
    """Fused logits (B, C) of some modalities; see `Step.fuse`."""

    def __call__(self, features: Mapping[str, Tensor], /, frozen: bool = False) -> Tensor: ...


def _no_fuse(features: Mapping[str, Tensor], frozen: bool = False) -> Tensor:
    raise RuntimeError("this step was made without a network")


def _no_teacher(modality: str) -> Tensor:
    raise RuntimeError("this step was made without teachers")


def _alone(values: Tensor) -> Tensor:
    return values.detach()


@dataclass
class Step:
    """One batch, as methods see it.

    Attributes:
        y: labels (B,).
        present: per modality a bool mask (B,), or None where every row is present.
        features: encoder outputs (B, d_m), zero rows where absent.
        logits: fused logits (B, C).
        unimodal: z_m of the unimodal heads (B, C).
        slices: `slices(m)` is the part of the fused logits that modality m accounts for (W_m f_m + b/M, Peng et
            al. 2022), or the head's z_m where the fusion has no such part.
        losses: mean cross-entropy of `fusion` and of every modality (over present rows, over all ranks).
        mean: `mean(values, m)` averages per-sample values (B,) over the rows where m is present (m None: all
            rows), over all ranks.
        t: committed optimiser steps. epoch: the current epoch. training: is this a training step?
        extras: room of the method's own, from one hook to the next hook of the same step (say, what `on_commit` is to
            take over); never read by anybody else.
        fuse: `fuse({m: f_m, …})` are the fused logits (B, C) of the given modalities alone, the others absent;
            `frozen=True` lets no gradient into the fusion's own weights.
        teacher: `teacher(m)` are the features (B, d_m) of the frozen teacher of m (see `Method.teachers`).
        total: `total(values)` is the sum of every rank's `values`, detached.
        gradients: after `substeps`: name -> group -> one gradient per parameter (unscaled, reduced). Read only.
        reads: 0-d tensors, the same on every rank, to come to the host with the step's one read, by name
            (`agm/k/audio`). Each is logged, and stands in `host` at the commit.
        host: at the commit: the floats of `reads`, and `loss/<m>`, `loss/fusion`, `fresh/<group>`.
        index: (B,) rows of the split's table. epochs: length of the training. rank: of this process.
    """

    y: Tensor
    present: dict[str, Tensor | None]
    features: dict[str, Tensor]
    logits: Tensor
    unimodal: dict[str, Tensor]
    slices: Callable[[str], Tensor]
    losses: dict[str, Tensor]
    mean: Callable[[Tensor, str | None], Tensor]
    t: int
    epoch: int
    training: bool
    extras: dict[str, Any] = field(default_factory=dict)
    fuse: Fuse = _no_fuse
    teacher: Callable[[str], Tensor] = _no_teacher
    total: Callable[[Tensor], Tensor] = _alone
    gradients: dict[str, dict[str, Gradients]] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    index: Tensor | None = None
    epochs: int = -1
    rank: int = 0

    @property
    def modalities(self) -> list[str]:
        return list(self.features)

    @property
    def here(self) -> list[str]:
        """The modalities that somebody in the global batch has."""
        return [m for m in self.features if m in self.losses]


@dataclass
class Survey:
    """A whole split seen by the network as it stands: evaluation mode, no augmentation, in the order of the table.

    Attributes:
        index, y: (n,) long.
        present: per modality (n,) bool.
        features: per modality (n, d_m), 0 where absent. unimodal: per modality (n, C), the heads' logits.
        logits: `logits(modalities)` are the fused logits (n, C) of these modalities alone.
    """

    index: Tensor
    y: Tensor
    present: dict[str, Tensor]
    features: dict[str, Tensor]
    unimodal: dict[str, Tensor]
    logits: Callable[[list[str]], Tensor]


@dataclass
class Selection:
    """The samples of one epoch: as many as the training split has, in this order, repetitions allowed.

    Attributes:
        index: (n,) long, rows of the training table.
        drop: per modality (n,) bool: the sample is given without this modality.
    """

    index: Tensor
    drop: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Epoch:
    """The moment before an epoch, as methods see it.

    Attributes:
        number: of the epoch that begins. epochs: length of the training.
        metrics: newest `val/…` metrics, and of the finished epoch `train/accuracy`, `train/accuracy/<m>`,
            `train/loss/fusion`, `train/loss/<m>` (means over committed steps). Empty before the first epoch.
        survey: `survey("train")` or `survey("val")`; one pass over the split, at most once per epoch.
        reinitialise: `reinitialise(m, alpha)`: encoder m becomes `(1 - alpha) * theta + alpha * theta_0`, with the
            weights theta_0 it began with; the optimiser forgets what it knew of it (needs `keeps_initial`).
    """

    number: int
    epochs: int
    metrics: dict[str, float]
    survey: Callable[[Literal["train", "val"]], Survey]
    reinitialise: Callable[[str, float], None]


@dataclass
class Method:
    """Base of all methods: every hook does nothing, and costs nothing unless overridden.

    Methods compose as a list, applied in the order given. Subclasses are dataclasses whose public fields are the
    hyper-parameters, with formula and paper in the docstring; they import torch only. Nothing of a method may change
    but in `on_commit` and `on_epoch` (a vetoed step leaves no trace), and what changes there is in `state`.
    """

    #: Does a loss of this method reach the encoders through the unimodal heads? Else the heads learn from detached
    #: features, for the record.
    trains_heads: ClassVar[bool] = False
    #: Is the fused cross-entropy left out? `loss` may return it under `fusion`, weighted.
    replaces_fusion_loss: ClassVar[bool] = False
    #: Are the encoders' first weights needed (`Epoch.reinitialise`)?
    keeps_initial: ClassVar[bool] = False

    # -- before training
    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        """Once, before training; raise UserError when the method has no meaning for these modalities."""

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        """Modules of the method's own, trained in the group `fusion` and saved with the weights; keep them on self.

        The key `fusion` replaces the network's fusion (a `Fusion`), `head` all unimodal heads by one shared one.
        Seeded; called after `setup`, with the width of every modality's feature.
        """
        return {}

    def teachers(self, modalities: list[str]) -> dict[str, str]:
        """Checkpoint with the frozen teacher of each modality, or `auto`: the finished `unimodal` run of this very
        configuration."""
        return {}

    def active(self, modalities: list[str]) -> list[str]:
        """The modalities whose encoders run at all."""
        return modalities

    def acts_from(self) -> tuple[str, int]:
        """The hyper-parameter that says when the method begins, and the first epoch (from 0) in which it acts; a run
        that ends before is warned."""
        return "", 0

    # -- before an epoch
    def on_epoch(self, epoch: Epoch) -> None:
        """Before each epoch: schedules, statistics of whole splits, re-initialisation."""

    def select(self, epoch: Epoch) -> Selection | None:
        """The samples of the epoch; None for each once, shuffled. Called after `on_epoch`; one method only."""
        return None

    # -- in a step, in this order
    def idle(self, t: int, epoch: int) -> set[str]:
        """The modalities whose encoders stand still in this step: no graph, nothing of them moves."""
        return set()

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the fusion reads in place of `features`, in training and evaluation (see `step.training`).

        `step` has no logits, unimodal logits and losses yet; `slices` and `fuse` work.
        """
        return features

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Weighted terms to add to the fused cross-entropy, by name (their shares are logged)."""
        return {}

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss in parts, each with a backward pass of its own; {} for one pass. One method only.

        The parts add up to the sum of `terms` (all methods' terms). `on_gradients` then finds their gradients in
        `step.gradients` and their sum in `p.grad`.
        """
        return {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        """Changes `p.grad` in place (unscaled, reduced over ranks); returns the names of the groups it changed."""
        return set()

    def group_lr(self, step: Step) -> dict[str, float]:
        """Factors on the learning rate of groups for this step."""
        return {}

    def on_commit(self, step: Step) -> None:
        """The optimiser has moved: take over what the step has shown (`step.extras`, `step.host`)."""

    # -- evaluation
    def fuse_at_test(self, step: Step) -> Tensor | None:
        """Class probabilities (B, C) to evaluate instead of softmax(fused logits), or None."""
        return None

    # -- checkpoints
    def state(self) -> dict[str, Any]:
        """What must survive a restart: plain dicts, lists, numbers and tensors, the same on every rank."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; tensors are on the CPU."""


def uses(method: Method, hook: str) -> bool:
    """Has the method a hook of this name of its own?"""
    return getattr(type(method), hook) is not getattr(Method, hook)


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """softmax(logits)[i, y_i], shape (B,)."""
    return torch.softmax(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, dim=1).gather(
        1, y[:, None]
    )[:, 0]


def scores(step: Step, logits: Callable[[str], Tensor] | None = None) -> dict[str, Tensor]:
    """p_m: mean probability of the right class over present rows and ranks, of the modalities somebody has.

    Args:
        logits: of a modality (B, C); default the slices of the fused logits. No gradient.
    """
    of = logits or step.slices
    with torch.no_grad():
        return {m: step.mean(confidence(of(m).detach(), step.y), m) for m in step.here}


def scale_feature_gradient(step: Step, modality: str, factor: Tensor) -> None:
    """What reaches the encoder of `modality` in this step is multiplied by `factor` (0-d or (B, 1)).

    The gradient of every loss at the feature, so with a 0-d factor the encoder's whole gradient.
    """
    f = step.features[modality]
    if f.requires_grad:
        f.register_hook(lambda g: g * factor.to(g.dtype))


def class_sums(step: Step, values: Tensor, modality: str | None, classes: int) -> tuple[Tensor, Tensor]:
    """Sums (C, d) of `values` (B, d) per class and rows (C,), over present rows and all ranks; no gradient."""
    mask = None if modality is None else step.present[modality]
    weight = torch.ones_like(values[:, 0]) if mask is None else mask.to(values.dtype)
    packed = torch.cat([torch.where(weight[:, None] > 0, values.detach(), 0.0), weight[:, None]], dim=1)
    total = step.total(packed.new_zeros(classes, packed.shape[1]).index_add_(0, step.y, packed))
    return total[:, :-1], total[:, -1]


def generator(device: torch.device, seed: int, *words: int | str) -> torch.Generator:
    """A fresh generator whose draws depend on `seed` and `words` alone (say, a name and `step.t`, and `step.rank`
    where ranks are to differ): a vetoed step leaves no trace, and a resumed run draws the same."""
    digest = hashlib.blake2b("\0".join(map(str, (seed, *words))).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)
