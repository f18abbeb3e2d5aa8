"""Calibration: bring an adapter's output to a measured scale, once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError

Mode = Literal["batch", "token", "none"]
AT_ONCE = 8  # texts: what is measured or fitted on many goes through in batches of so many, in flat memory


class Calibration(nn.Module):
    """Scales by one factor for all tokens, measured on a first batch, times a learnable gain that starts at 1.

        batch   y * gain * target / rms(first batch)
        token   y * gain * target / rms(y_token)
        none    y

    `batch` fixes the factor at `measure`: the RMS over the batch is then the target, tokens keep their magnitude
    relative to each other, and a row's result never depends on its neighbours. `token` gives every token the same
    magnitude, which is known to destroy generation (magnitude carries meaning); it is here to be compared with.

    State: the measured RMS; the target stands in it too, so a checkpoint brings both.

    Args:
        target: RMS over entries to reach, e.g. of the language model's embeddings of real text.
        mode: `batch`, `token` or `none`.
    """

    target: Tensor
    measured: Tensor

    def __init__(self, target: float, mode: Mode = "batch"):
        super().__init__()
        if not 0 < target < float("inf"):
            raise UserError("calibration target", str(target), "a positive RMS", "set wire.measured_texts=256")
        self.mode = mode
        self.gain = nn.Parameter(torch.ones(())) if mode != "none" else None
        self.register_buffer("target", torch.tensor(float(target)))
        self.register_buffer("measured", torch.zeros(()))

    def unit(self) -> Tensor | float:
        """Return the size of calibrated outputs at the start: the target, or 1 where nothing is scaled."""
        return 1.0 if self.gain is None else self.target

    @torch.no_grad()
    def measure(self, parts: Iterable[Tensor]) -> float:
        """Take the RMS of uncalibrated outputs of a representative batch, given in parts (…, d); return it."""
        total: Tensor | float = 0.0
        count = 0
        for y in parts:
            total, count = total + y.double().pow(2).sum(), count + y.numel()
        rms = torch.as_tensor(total / count).sqrt().float()
        if not (torch.isfinite(rms) and rms > 0):
            raise UserError("adapter output", f"RMS {float(rms)}", "finite and not zero", "set adapter=linear")
        self.measured.copy_(rms)
        return float(rms)

    def forward(self, y: Tensor) -> Tensor:
        """Scale (…, d). Raises RuntimeError before `measure` in mode `batch`."""
        if self.gain is None:
            return y
        if self.mode == "token":
            return y * (self.gain * self.target * torch.rsqrt(y.pow(2).mean(-1, keepdim=True).clamp(min=1e-24)))
        if float(self.measured) == 0:
            raise RuntimeError(
                "adapter not calibrated: call calibrate(latents of a training batch) first, or load a state"
            )
        return y * (self.gain * self.target / self.measured)
