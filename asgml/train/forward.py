"""Forward: from a batch to a `Step`, with losses as means over the rows of all ranks (specification A1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from asgml.data.dataset import Batch
from asgml.methods.base import Method, Step, uses
from asgml.model.net import FUSION, MultimodalNet
from asgml.model.rows import present_mask, scatter
from asgml.train.distributed import reduced
from callbacks.step.context import host_read
from callbacks.step.plan import StepPlan
from callbacks.step.ranks import sum_over_ranks, world_size

HALF = (torch.float16, torch.bfloat16)
Encoded = tuple[dict[str, Tensor], dict[str, Tensor | None]]  # features (B, d_m) and presence masks, by modality


def widen(x: Tensor) -> Tensor:
    """Return half-precision logits in fp32, because losses are never computed in half; others as they are."""
    return x.float() if x.dtype in HALF else x


def full_masks(present: Mapping[str, Tensor | None], size: int, device: torch.device) -> dict[str, Tensor]:
    """Return presence masks (B,) of the type bool, with None, which stands for "in every row", written out."""
    ones = torch.ones(size, dtype=torch.bool, device=device)
    return {m: ones if mask is None else mask for m, mask in present.items()}


class Forward:
    """Turns a batch into a `Step`: the forward pass of `MultimodalModule`, without parameters of its own.

    Args:
        net: the network.
        methods: the methods of the run, in order; those with `on_features` see the features before fusion.
        active: the modalities that take part.
        trains_heads: whether a method trains on the unimodal losses; if not, the heads read detached features.
        may_miss: whether a modality can be missing in a sample.
        teachers: frozen encoders by modality, each with the submodule `head` where a method reads its logits.
        criterion: the loss (B,) of logits (B, C) and y (B,).
        accumulate: the number of parts that an encoder takes a batch in, where gradients are wanted. A part is encoded
            once more in its backward pass, so that no more than one part's activations are held (gradient caching, Gao
            et al., 2021, arXiv 2101.06983). Methods see the features of the whole batch.

    Attributes:
        taps: with `measure`, per modality the feature as the fusion and as the head read it, for the gradient cosine.
    """

    def __init__(
        self,
        net: MultimodalNet,
        methods: Sequence[Method],
        active: Sequence[str],
        trains_heads: bool,
        may_miss: bool,
        teachers: Mapping[str, nn.Module],
        criterion: Callable[[Tensor, Tensor], Tensor],
        accumulate: int = 1,
    ):
        self.criterion, self.accumulate = criterion, accumulate
        self.net, self.active = net, list(active)
        self.trains_heads, self.may_miss = trains_heads, may_miss
        self.teachers = dict(teachers)  # a plain dict: neither trained nor saved
        self._changing = [m for m in methods if uses(m, "on_features")]
        self.taps: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        batch: Batch,
        *,
        plan: StepPlan | None,
        measure: bool,
        t: int,
        epoch: int,
        epochs: int,
        rank: int,
        encoded: Encoded | None = None,
    ) -> Step:
        """Run the forward pass of a batch.

        Args:
            batch: the batch, as `asgml.data` makes it.
            plan: what every encoder may do in this training step; the modalities that nobody in the global batch has
                are noted in it. None stands for evaluation, which leaves out everything that only gradients need.
            measure: whether the taps of this step are kept.
            t: the number of committed steps.
            epoch: the number of the epoch.
            epochs: the length of training in epochs; -1 where it is measured in steps.
            rank: the number of this rank.
            encoded: features and presence masks as `encode` returns them, in place of encoding; in evaluation only.
        """
        training = plan is not None
        features, present = self.encode(batch, plan) if encoded is None else encoded
        fused_in, head_in = self._views(features, plan, measure)
        y, size = batch["y"], batch["y"].shape[0]
        masks = full_masks(present, size, y.device) if any(p is not None for p in present.values()) else None
        counts, ranks = (None, 1) if plan is None else (self._counts(batch, plan), world_size())

        def mean(values: Tensor, m: str | None) -> Tensor:
            """Return the mean over the rows (with m) of all ranks, scaled so that DDP's average over ranks is right."""
            mask = None if m is None else present[m]
            total = values.sum() if mask is None else torch.where(mask, values, torch.zeros_like(values)).sum()
            if counts is None:
                return total / (values.shape[0] if mask is None else mask.sum().clamp(min=1))
            n = counts[0] if m is None else counts[1 + self.active.index(m)]
            return total * ranks / (n.to(total.dtype) if isinstance(n, Tensor) else n)

        def slices(m: str) -> Tensor:
            part = self.net.fusion.unimodal_logits(fused_in, m)
            if part is None:  # methods that change features ask before the heads have been read
                return step.unimodal[m] if m in step.unimodal else widen(self.net.heads[m](head_in[m]))
            return widen(part)

        def fuse(some: Mapping[str, Tensor], frozen: bool = False) -> Tensor:
            return self.fuse_some(some, features, present, frozen)

        def teacher(m: str) -> Tensor:
            x, rows = batch["x"][m], batch["rows"][m]
            padded = [n] if (n := batch.get("lengths", {}).get(m)) is not None else []
            with torch.no_grad():
                f = self.teachers[m](x, *padded) if x.shape[0] else features[m].new_zeros(0, self.net.dims[m])
                return scatter(f, rows, size)

        def teacher_logits(m: str, f: Tensor) -> Tensor:
            with torch.no_grad():
                return widen(self.teachers[m].get_submodule("head")(f))

        step = Step(
            y=y,
            present=present,
            features={m: features[m] for m in self.active},
            logits=torch.empty(0, device=y.device),
            unimodal={},
            slices=slices,
            losses={},
            mean=reduced(mean),
            t=t,
            epoch=epoch,
            training=training,
            fuse=fuse,
            teacher=teacher,
            teacher_logits=teacher_logits,
            total=lambda values: sum_over_ranks(values.detach()),
            epochs=epochs,
            rank=rank,
            criterion=self.criterion,
        )
        for method in self._changing:
            fused_in = method.on_features(step, fused_in)
        step.logits = widen(self.net.fusion(fused_in, masks))
        step.unimodal = {m: widen(self.net.heads[m](head_in[m])) for m in self.active}
        step.losses = {FUSION: mean(self.criterion(step.logits, y), None)}
        for m in self.active:
            if plan is None or not plan[m].absent:
                step.losses[m] = mean(self.criterion(step.unimodal[m], y), m)
        return step

    def encode(
        self, batch: Batch, plan: StepPlan | None = None, known: Mapping[str, Tensor] = MappingProxyType({})
    ) -> Encoded:
        """Return features (B, d_m), the known ones as they are, and presence masks.

        Encoders that the plan holds back run without a graph.
        """
        size, device = batch["y"].shape[0], batch["y"].device
        features: dict[str, Tensor] = {}
        present: dict[str, Tensor | None] = {}
        lengths = batch.get("lengths", {})
        for m in self.net.modalities:
            x, rows = batch["x"][m], batch["rows"][m]
            present[m] = None if rows is None else present_mask(rows, size, device)
            if m in known:
                features[m] = known[m]
                continue
            if m not in self.active:
                features[m] = torch.zeros(
                    size, self.net.dims[m], device=device, dtype=x.dtype if x.is_floating_point() else None
                )
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and (plan is None or plan[m].graph)):
                features[m] = scatter(self._in_parts(m, x, lengths.get(m)), rows, size)
        return features, present

    def _in_parts(self, modality: str, x: Tensor, lengths: Tensor | None) -> Tensor:
        parts = min(self.accumulate, x.shape[0])
        if parts < 2 or not torch.is_grad_enabled():
            return self.net.encode(modality, x, lengths)
        pieces = x.tensor_split(parts)
        valid = [None] * parts if lengths is None else lengths.tensor_split(parts)
        return torch.cat(
            [
                checkpoint(self.net.encode, modality, piece, n, use_reentrant=False)
                for piece, n in zip(pieces, valid, strict=True)
            ]
        )

    def fuse_some(
        self,
        some: Mapping[str, Tensor],
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor | None],
        frozen: bool = False,
    ) -> Tensor:
        """Return the fused logits (B, C) of some modalities, the others being absent from every row.

        Args:
            some: the features (B, d_m) of the modalities that are fused.
            features: the features of all modalities.
            present: the presence masks of all modalities, None for "in every row".
            frozen: whether the fusion's weights get no gradient.
        """
        first = next(iter(features.values()))
        masks = full_masks(present, first.shape[0], first.device)
        nobody = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
        given = {m: some[m] if m in some else features[m].detach() for m in features}
        masks = {m: masks[m] if m in some else nobody for m in features}
        if not frozen:
            return widen(self.net.fusion(given, masks))
        weights = {name: p.detach() for name, p in self.net.fusion.named_parameters()}
        return widen(functional_call(self.net.fusion, weights, (given, masks)))

    def _views(
        self, features: dict[str, Tensor], plan: StepPlan | None, measure: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the features as fusion and heads read them."""
        self.taps = {}
        fused_in, head_in = dict(features), dict(features)
        if plan is None:
            return fused_in, head_in
        for m in self.active:
            # always two views, so that measuring (retain_grad) does not change the order in which gradients are added
            fused_in[m], head_in[m] = features[m].view_as(features[m]), features[m].view_as(features[m])
            if not self.trains_heads or plan[m].head_detached:
                head_in[m] = features[m].detach()
            elif measure and features[m].requires_grad:
                fused_in[m].retain_grad()
                head_in[m].retain_grad()
                self.taps[m] = (fused_in[m], head_in[m])
        return fused_in, head_in

    def _counts(self, batch: Batch, plan: StepPlan) -> Sequence[float | Tensor]:
        """Return the global numbers of rows, of all and of each active modality, and note absent ones in the plan.

        They are floats on one rank and 0-d tensors on several.
        """
        local = [batch["y"].shape[0]] + [batch["x"][m].shape[0] for m in self.active]
        if world_size() == 1:
            plan.mark_absent(m for m, n in zip(self.active, local[1:], strict=True) if n == 0)
            return [float(max(1, n)) for n in local]
        device = batch["y"].device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        counts = sum_over_ranks(torch.tensor(local, device=device, dtype=dtype))
        found = host_read(counts) if self.may_miss else local
        plan.mark_absent(m for m, n in zip(self.active, found[1:], strict=True) if n == 0)
        return counts.clamp(min=1.0).unbind()
