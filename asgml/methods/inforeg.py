"""InfoReg: while information is acquired fast, the modality ahead is pulled back to where it began the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import SAVED, Epoch, Method, Step
from asgml.methods.shared.confidence import scores
from callbacks.ranges import NOT_EMPTY, Count, Finite, NonNegative


@dataclass
class InfoReg(Method):
    """InfoReg (Huang et al., "Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition",
    CVPR 2025).

    `L = L_fusion + sum_m L_m`. s_m is the sum over the batch of softmax(z_m)[y] of head m, D_m = s_m - mean over the
    others of s_k. While modality m is in its prime learning window, and where D_m > 0:

        gradient of theta_m  +=  alpha_m (theta_m - theta_m(start of the epoch)),    alpha_m = beta * exp(tanh(D_m))

    T(e) is encoder m's trace of the Fisher information in epoch e, the mean over its steps of |grad|^2. The window is
    open before epoch e if (A - A') / A > threshold, A = sum of the newest `span` traces, A' that sum one epoch before
    (traces before the beginning are 0, so that it is open at first).

    N > 2: D_m against the mean of the others, so that more than one may be regulated. Sums are over present rows of all
    ranks; with missing rows s_m is the batch size times their mean. The strength beta * exp(tanh(D)) is that of the
    authors' code; Eq. 16 of the paper is exp(beta * tanh(D)), above 1 whatever beta. The code takes audio's window for
    all, a `beta` per modality (0.95 audio, 0.1 visual) and a mean of squared gradients per layer; in one of its
    versions the visual branch can never be reached.

    Attributes:
        beta: strength of the pull; a number, or one per modality (those not named are not regulated). Published: 0.95
            audio, 0.1 visual, which all audio-visual sets of the suite have; no published value for other modalities.
        threshold: relative growth of A above which the window is open, K of the paper.
        span: number of epochs in A.
    """

    min_modalities: ClassVar[int] = 2
    trains_heads: ClassVar[bool] = True
    beta: NonNegative | Annotated[dict[str, NonNegative], NOT_EMPTY] = 0.95
    threshold: Finite = 0.04
    span: Count = 10
    # traces per epoch, [sum, steps] of the squared norms of this epoch, its first weights and its number
    _traces: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _squares: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _anchors: dict[str, list[Tensor]] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _anchored: int = field(default=-1, init=False, repr=False, metadata=SAVED)
    _beta: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def setup(self) -> None:
        given = self.beta if isinstance(self.beta, dict) else dict.fromkeys(self._modalities, self.beta)
        self.require("beta", set(given) <= set(self._modalities), f"strengths for {', '.join(self._modalities)}")
        self._beta = {m: float(given.get(m, 0.0)) for m in self._modalities}
        self.require("span", self.span >= 1, "1 or more")

    def open(self, m: str) -> bool:
        """Tell whether modality m is in its prime learning window."""
        traces = self._traces.get(m, [])
        now, before = sum(traces[-self.span :]), sum(traces[-self.span - 1 : -1])
        return now == 0 or (now - before) / now > self.threshold

    def on_epoch(self, epoch: Epoch) -> None:
        for m, (total, steps) in self._squares.items():
            self._traces[m] = [*self._traces.get(m, []), total / steps][-self.span - 1 :]
        self._squares = {}

    def strengths(self, step: Step) -> dict[str, Tensor]:
        """Return alpha_m of the modalities in their window, 0 where they are not ahead."""
        here = step.here
        if len(here) < 2:
            return {}
        s = scores(step, {m: step.unimodal[m] for m in here})
        batch = step.total(s[here[0]].new_full((), len(step.y)))
        out = {}
        for m in here:
            if self.open(m):
                ahead = batch * (s[m] - torch.stack([s[k] for k in here if k != m]).mean())
                out[m] = torch.where(ahead > 0, self._beta[m] * torch.exp(torch.tanh(ahead)), 0.0)
        return out

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        strengths = self.strengths(step)
        step.reads.update({f"inforeg/strength/{m}": alpha for m, alpha in strengths.items()})
        encoders = {m: groups[m] for m in step.modalities if m in groups}
        if step.epoch != self._anchored:  # the weights that the epoch begins with
            step.extras["inforeg"] = {m: [p.detach().clone() for p in params] for m, params in encoders.items()}
            return set()
        touched = set()
        for m, alpha in strengths.items():
            both = list(zip(encoders.get(m, []), self._anchors.get(m, []), strict=True))
            if not both:
                continue
            self._anchors[m] = [a if a.device == p.device else a.to(p.device) for p, a in both]
            kept = [(p, p.grad, a) for (p, _), a in zip(both, self._anchors[m], strict=True) if p.grad is not None]
            if not kept:
                continue
            pull = torch._foreach_sub([p.detach() for p, _, _ in kept], [a for _, _, a in kept])
            torch._foreach_mul_(pull, alpha.to(pull[0].dtype))
            torch._foreach_add_([g for _, g, _ in kept], pull)
            touched.add(m)
        return touched

    def on_commit(self, step: Step) -> None:
        if "inforeg" in step.extras:
            self._anchors, self._anchored = step.extras["inforeg"], step.epoch
        for m in step.here:
            if f"fresh/{m}" in step.host:
                total, steps = self._squares.get(m, [0.0, 0.0])
                self._squares[m] = [total + step.host[f"fresh/{m}"] ** 2, steps + 1]
