"""The multimodal network: an encoder and a unimodal head per modality, and one fusion."""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.model.encoders.base import no_rows
from asgml.model.fusion.base import Fusion
from asgml.model.modality_dict import ModalityDict
from callbacks.errors import UserError
from callbacks.ranges import Seed

#: The name of the parameter group of fusion and heads.
FUSION = "fusion"


class MultimodalNet(nn.Module):
    """f_m = encoder_m(x_m), logits = fusion(f_1, …, f_N), z_m = head_m(f_m) for any N >= 1.

    The parts are called one by one: which features a fusion or a head reads, and with what gradient, is the step's
    decision. Every component is initialised from a generator of its own, seeded by (seed, component): neither the order
    of construction nor another modality changes an encoder's initial weights, and torch's global generator stays where
    it was.

    Args:
        spec: the modalities (name, kind, shape), and the classes or that y is a number.
        encoder: the builder of a modality's encoder, called with `shape=`, and with `kind=` and `vocabulary=` if it
            takes them; the result maps (n, *shape) to (n, out_dim). Of padded sequences it also takes the lengths, and
            says so by an attribute `takes_lengths`.
        encoders: the builders of single modalities' encoders, by name, in place of `encoder`.
        fusion: the builder of the fusion, called with `dims=` (modality -> out_dim) and `classes=`.
        seed: the seed of the initial weights.

    Attributes:
        modalities: the names, in the order of `spec`.
        task: classification or regression.
        classes: the number of classes, 1 in a regression: the width of all outputs.
        dims: the width of each modality's feature.
        encoders: the encoders by modality name (any string).
        heads: the unimodal heads by modality name, each a linear map.
        fusion: the fusion.

    Raises:
        UserError: a part that cannot be built or is shared between modalities, or padded sequences for an encoder that
            would take the padding for data.
    """

    def __init__(
        self,
        spec: DataSpec,
        encoder: Callable[..., nn.Module],
        encoders: dict[str, Callable[..., nn.Module]],
        fusion: Callable[..., Fusion],
        seed: Seed = 0,
    ):
        super().__init__()
        self.modalities = list(spec.modalities)
        self.task, self.classes = spec.task, spec.outputs
        self._check(spec, list(encoders))
        self.encoders = ModalityDict()
        self.heads = ModalityDict()
        self.dims: dict[str, int] = {}
        for m, modality in spec.modalities.items():
            factory = encoders.get(m, encoder)
            where = f"model.encoders.{m}" if m in encoders else "model.encoder"
            with component_rng(seed, "encoder", m):
                built = _build_encoder(factory, modality, where)
            self.dims[m] = _out_dim(built, where)
            if modality.padded and not getattr(built, "takes_lengths", False):
                raise _no_lengths(built, where, m)
            with component_rng(seed, "head", m):
                self.heads[m] = nn.Linear(self.dims[m], self.classes)
            self.encoders[m] = built
        with component_rng(seed, FUSION):
            self.fusion = fusion(dims=dict(self.dims), classes=self.classes)
        self.groups()  # refuses shared parameters here and not at the first step

    def _check(self, spec: DataSpec, overrides: list[str]) -> None:
        if not self.modalities or (self.task == "classification" and self.classes < 2):
            found = f"{len(self.modalities)} modalities, {self.classes} classes"
            remedy = "let the source's spec() name at least these"
            raise UserError("data", found, "at least 1 modality and 2 classes", remedy)
        if FUSION in spec.modalities:
            remedy = f"rename the modality in the data: {FUSION} is a parameter group"
            raise UserError("data", f"a modality named {FUSION}", "any other name", remedy)
        for name in overrides:
            if name not in spec.modalities:
                near = difflib.get_close_matches(name, self.modalities, 1)
                raise UserError(
                    f"model.encoders.{name}",
                    "an encoder for a modality that the data does not have",
                    f"one of {', '.join(self.modalities)}",
                    f"did you mean {near[0]}?" if near else f"leave model.encoders.{name} out",
                )

    def encode(self, modality: str, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the features (n, out_dim) of rows (n, *shape); with n = 0 the encoder does not run: see `no_rows`.

        Args:
            modality: the modality of the rows.
            x: the rows.
            lengths: the number of valid steps of each row, (n,) int64; None where no row is padded.
        """
        encoder = self.encoders[modality]
        if x.shape[0] == 0:
            return no_rows(encoder, self.dims[modality])
        return encoder(x) if lengths is None else encoder(x, lengths)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by group: one per modality (its encoder), and `fusion` (fusion and heads).

        Every parameter, frozen ones included, is in exactly one group.

        Raises:
            UserError: a parameter that is in two.
        """
        groups = {m: list(self.encoders[m].parameters()) for m in self.modalities}
        groups[FUSION] = [*self.fusion.parameters(), *self.heads.parameters()]
        owner: dict[int, str] = {}
        for group, parameters in groups.items():
            for p in parameters:
                if owner.setdefault(id(p), group) != group:
                    raise UserError(
                        "model",
                        f"a parameter of shape {tuple(p.shape)} shared by {owner[id(p)]} and {group}",
                        "every parameter in exactly one group",
                        "give each modality an encoder of its own: the groups are updated at different steps",
                    )
        return groups


@contextmanager
def component_rng(seed: int, *component: str) -> Iterator[None]:
    """Let torch draw, on the CPU, from a state that depends on `seed` and the component's name alone.

    The global state is put back afterwards. Modules are built on the CPU whatever the default device, so that the
    initial weights are the same on every machine.
    """
    digest = hashlib.sha256("\0".join([str(seed), *component]).encode()).digest()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed: that would also seed the accelerators, whose state is not put back.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def _build_encoder(factory: Callable[..., nn.Module], modality: ModalitySpec, where: str) -> nn.Module:
    parameters = inspect.signature(factory).parameters
    offered = {"kind": modality.kind, "vocabulary": modality.vocabulary}
    if "shape" not in parameters:
        raise UserError(
            where,
            f"{getattr(factory, 'func', factory)!r}, which takes no `shape`",
            "a callable with the parameter shape (of one sample), and optionally kind",
            "wrap it in a module with the signature (shape, ...) and the attribute out_dim",
        )
    try:
        taken = {name: value for name, value in offered.items() if name in parameters and value is not None}
        return factory(shape=tuple(modality.shape), **taken)
    except UserError as error:
        raise UserError(
            f"{where} (modality {modality.name}): {error.where}", error.found, error.expected, error.remedy
        ) from error


def _no_lengths(encoder: nn.Module, where: str, modality: str) -> UserError:
    return UserError(
        f"{where} (modality {modality})",
        f"padded sequences for {type(encoder).__name__}, which would take the padding for data",
        "an encoder that takes lengths: the attribute takes_lengths = True, and forward(x, lengths)",
        f"set model=small, or leave mask_{modality} and length_{modality} out of the file to have padding encoded",
    )


def _out_dim(encoder: nn.Module, where: str) -> int:
    dim = getattr(encoder, "out_dim", None)
    if not isinstance(dim, int) or dim < 1:
        raise UserError(
            where, f"out_dim = {dim!r}", "a positive int", "set out_dim to the width of the encoder's features"
        )
    return dim
