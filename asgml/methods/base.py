"""Defines the method interface: a dataclass of hyper-parameters and the one or two hooks it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.errors import UserError

#: One entry per parameter of a group, None where a loss does not reach it.
Gradients = list[Tensor | None]
#: Marks a private field of a method that its checkpoints keep: `field(…, init=False, repr=False, metadata=SAVED)`.
SAVED = {"saved": True}


class Fuse(Protocol):
    """Fuses some modalities to logits (B, C); see `Step.fuse`."""

    def __call__(self, features: Mapping[str, Tensor], /, frozen: bool = False) -> Tensor: ...


def _no_fuse(features: Mapping[str, Tensor], frozen: bool = False) -> Tensor:
    raise RuntimeError("this step was made without a network")


def _no_teacher(modality: str) -> Tensor:
    raise RuntimeError("this step was made without teachers")


def _no_teacher_logits(modality: str, features: Tensor) -> Tensor:
    raise RuntimeError("this step was made without teachers")


def _alone(values: Tensor) -> Tensor:
    return values.detach()


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="none")


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


@dataclass
class Step:
    """Holds one batch, as methods see it.

    Attributes:
        y: labels (B,), in a regression floats.
        present: per modality a bool mask (B,), or None where every row is present.
        features: encoder outputs (B, d_m), zero rows where absent.
        logits: fused logits (B, C); in a regression the predicted value (B, 1), as in all other logits.
        unimodal: logits z_m of the unimodal heads (B, C).
        slices: function of m: the part of the fused logits that modality m accounts for (W_m f_m + b/M, Peng et al.
            2022), or the head's z_m where the fusion has no such part.
        losses: mean loss (`criterion`) of `fusion` and of every modality, over present rows of all ranks.
        mean: function of (values, m): the mean of per-sample values (B,) over the rows of all ranks where m is present
            (over all rows for None).
        t: number of committed optimiser steps.
        epoch: number of the current epoch.
        training: whether this is a training step.
        extras: room of the method's own, from one hook to the next hook of the same step (say, what `on_commit` is to
            take over); never read by anybody else.
        fuse: function of {m: f_m, …}: the fused logits (B, C) of the given modalities alone, the others absent;
            `frozen=True` lets no gradient into the fusion's own weights.
        teacher: function of m: the features (B, d_m) of the frozen teacher of m (see `Method.teachers`).
        teacher_logits: function of (m, features): the logits (B, C) that the teacher of m has for features (B, d_m) of
            its own; for methods with `reads_teacher_logits`.
        total: function of values: the sum of every rank's `values`, detached.
        gradients: after `substeps`, name -> group -> one gradient per parameter (unscaled, reduced); read only.
        reads: 0-d tensors by name (`agm/k/audio`), the same on every rank, that come to the host with the step's one
            read; each is logged, and stands in `host` at the commit.
        host: at the commit, the floats of `reads`, and `loss/<m>`, `loss/fusion`, `fresh/<group>`.
        epochs: length of the training, -1 where it is measured in steps.
        rank: rank of this process.
        criterion: function of (logits, y): the loss of every row (B,), cross-entropy unless in a regression.
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
    teacher_logits: Callable[[str, Tensor], Tensor] = _no_teacher_logits
    total: Callable[[Tensor], Tensor] = _alone
    gradients: dict[str, dict[str, Gradients]] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    epochs: int = -1
    rank: int = 0
    criterion: Callable[[Tensor, Tensor], Tensor] = _cross_entropy

    @property
    def modalities(self) -> list[str]:
        """List the modalities that take part in the run."""
        return list(self.features)

    @property
    def here(self) -> list[str]:
        """List the modalities that somebody in the global batch has."""
        return [m for m in self.features if m in self.losses]


@dataclass
class Survey:
    """Holds a whole split, seen by the network as it stands: evaluation mode, no augmentation, order of the table.

    Attributes:
        index: rows of the split's table (n,).
        y: labels (n,).
        present: bool mask (n,) per modality.
        features: encoder outputs (n, d_m) per modality, 0 where absent.
        unimodal: logits of the unimodal heads (n, C) per modality.
        logits: function of a list of modalities: the fused logits (n, C) of these alone.
        criterion: as in `Step`.
    """

    index: Tensor
    y: Tensor
    present: dict[str, Tensor]
    features: dict[str, Tensor]
    unimodal: dict[str, Tensor]
    logits: Callable[[list[str]], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor] = _cross_entropy


@dataclass
class Selection:
    """Chooses the samples of one epoch: as many as the training split has, in this order, repetitions allowed.

    Attributes:
        index: rows of the training table (n,), long.
        drop: bool mask (n,) per modality of the samples that are given without it.
    """

    index: Tensor
    drop: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Epoch:
    """Holds the moment before an epoch, as methods see it.

    Attributes:
        number: number of the epoch that begins, from 0.
        epochs: length of the training.
        metrics: newest `val/…` metrics, and of the finished epoch `train/accuracy`, `train/accuracy/<m>`,
            `train/loss/fusion`, `train/loss/<m>` (means over committed steps); empty before the first epoch.
        survey: function of `train` or `val`: one pass over the split, at most once per epoch.
        reinitialise: function of (m, alpha) that makes encoder m `(1 - alpha) * theta + alpha * theta_0`, with the
            weights theta_0 it began with; the optimiser forgets what it knew of it (needs `keeps_initial`).
    """

    number: int
    epochs: int
    metrics: dict[str, float]
    survey: Callable[[Literal["train", "val"]], Survey]
    reinitialise: Callable[[str, float], None]


@dataclass
class Method:
    """Declares the hooks of all methods: each does nothing, and costs nothing unless overridden.

    Methods compose as a list, applied in the order given. Subclasses are dataclasses whose constructor takes the
    hyper-parameters, with formula and paper in the docstring; they know no framework but torch. Nothing of a method
    may change but in `on_commit` and `on_epoch` (a vetoed step leaves no trace), and what changes there is `SAVED`.
    """

    #: The fewest modalities among which the method has something to do.
    min_modalities: ClassVar[int] = 1
    #: Does a loss of this method reach the encoders through the unimodal heads? Else the heads learn from detached
    #: features, for the record.
    trains_heads: ClassVar[bool] = False
    #: Does the method know nothing of classes, only losses, gradients and features? Else a regression refuses it.
    for_regression: ClassVar[bool] = False
    #: Does what it does in a step depend on the length of the training (`Step.epochs`)?
    reads_length: ClassVar[bool] = False
    #: Is the fused loss left out? `loss` may return it under `fusion`, weighted.
    replaces_fusion_loss: ClassVar[bool] = False
    #: Are the encoders' first weights needed (`Epoch.reinitialise`)?
    keeps_initial: ClassVar[bool] = False
    #: Are the teachers asked for logits as well (`Step.teacher_logits`)? Their checkpoints then need a head.
    reads_teacher_logits: ClassVar[bool] = False
    _name: str = field(default="", init=False, repr=False)
    _modalities: list[str] = field(default_factory=list, init=False, repr=False)
    _classes: int = field(default=0, init=False, repr=False)
    _seed: int = field(default=0, init=False, repr=False)

    # -- before training
    def prepare(self, name: str, modalities: list[str], classes: int, seed: int) -> None:
        """Take over what the run is about, under the method's name in the configuration, and call `setup`.

        Raises:
            UserError: fewer modalities than `min_modalities`, or a hyper-parameter that `setup` refuses.
        """
        if len(modalities) < self.min_modalities:
            found = f"{len(modalities)} modality: {', '.join(modalities)}"
            raise UserError(f"method={name}", found, f"{self.min_modalities} or more modalities", "method=joint")
        self._name, self._modalities, self._classes, self._seed = name, list(modalities), classes, seed
        self.setup()

    def setup(self) -> None:
        """Refuse hyper-parameters without a meaning (`require`); once, when modalities, classes and seed are known."""

    def require(self, key: str, met: bool, expected: str, choice: object = None) -> None:
        """Refuse the value of hyper-parameter `key` unless `met`; the remedy is `choice`, or else the default."""
        if not met:
            where = f"methods.{self._name}.{key}"
            remedy = getattr(type(self), key) if choice is None else choice
            raise UserError(where, str(getattr(self, key)), expected, f"{where}={remedy}")

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        """Make modules of the method's own, trained in the group `fusion`, saved with the weights, and kept on self.

        The key `fusion` replaces the network's fusion (a `Fusion`), `head` all unimodal heads by one shared one,
        `heads` (a `ModalityDict`) every unimodal head by one of its own.
        Seeded; called after `setup`, with the width of every modality's feature.
        """
        return {}

    def teachers(self, modalities: list[str]) -> dict[str, str]:
        """Name the checkpoint with the frozen teacher of each modality.

        `auto` stands for the finished `unimodal` run of this very configuration.
        """
        return {}

    def active(self, modalities: list[str]) -> list[str]:
        """List the modalities whose encoders run at all."""
        return modalities

    def acts_from(self) -> tuple[str, int]:
        """Name the hyper-parameter that says when the method begins, and the first epoch (from 0) in which it acts.

        A run that ends before is warned. The hyper-parameter is `begins`, unless a method begins with its first period.
        """
        return ("begins", self.begins) if hasattr(self, "begins") else ("", 0)

    # -- before an epoch
    def on_epoch(self, epoch: Epoch) -> None:
        """Prepare an epoch: schedules, statistics of whole splits, re-initialisation."""

    def select(self, epoch: Epoch) -> Selection | None:
        """Choose the samples of the epoch; None for each once, shuffled. Called after `on_epoch`; one method only."""
        return None

    # -- in a step, in this order
    def idle(self, t: int, epoch: int) -> set[str]:
        """Name the modalities whose encoders stand still in this step: no graph, nothing of them moves."""
        return set()

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace `features` as the fusion reads them, in training and evaluation (see `step.training`).

        `step` has no logits, unimodal logits and losses yet; `slices` and `fuse` work.
        """
        return features

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Return weighted terms to add to the fused loss, by name; their shares are logged.

        Unless overridden: every unimodal loss for a method that `trains_heads`, nothing for another.
        """
        return {m: step.losses[m] for m in step.here} if self.trains_heads else {}

    def substeps(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split the training loss into parts, each with a backward pass of its own; {} for one pass. One method only.

        The parts add up to the sum of `terms` (all methods' terms). `on_gradients` then finds their gradients in
        `step.gradients` and their sum in `p.grad`.
        """
        return {}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        """Change `p.grad` in place (unscaled, reduced over ranks); return the names of the groups it changed."""
        return set()

    def group_lr(self, step: Step) -> dict[str, float]:
        """Return factors on the learning rate of groups for this step."""
        return {}

    def on_commit(self, step: Step) -> None:
        """Take over what the step has shown (`step.extras`, `step.host`), now that the optimiser has moved."""

    # -- evaluation
    def fuse_at_test(self, step: Step) -> Tensor | None:
        """Return class probabilities (B, C) to evaluate instead of softmax(fused logits), or None.

        In a regression: the values (B, 1) in place of the fused ones.
        """
        return None

    # -- checkpoints
    def state(self) -> dict[str, Any]:
        """Return a copy of all `SAVED` fields, by name without the underscore; the same on every rank."""
        return {f.name[1:]: _copied(getattr(self, f.name)) for f in fields(self) if "saved" in f.metadata}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned; tensors are on the CPU."""
        for name, value in state.items():
            setattr(self, f"_{name}", _copied(value))


def uses(method: Method, hook: str) -> bool:
    """Tell whether the method has a hook of this name of its own."""
    return getattr(type(method), hook) is not getattr(Method, hook)
