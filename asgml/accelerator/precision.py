"""fp16 and bf16 AMP against fp32: the same steps skipped, and the same weights within what half precision can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch

from asgml.accelerator.runs import PICTURES, start, trained, weights
from asgml.build import Parts
from suite.accelerator.section import Place, Row, Section, check

POISONED = (3, 7)  # batches with an input that is not finite
STEPS, SCALE = 16, 1024.0
RHYTHMS = ("staleness, tau = 2", "frequency accumulate, k = 2", "frequency soft, k = 2")
#: ‖half - full‖ over ‖full - start‖: fp16 has 10 bits of mantissa, bf16 7, and errors add up over the steps.
TOLERANCES = {"16-mixed": 0.05, "bf16-mixed": 0.15}


class Overflow(L.Callback):
    """Puts an infinity into chosen batches, and notes which steps were skipped and the type of the features."""

    def __init__(self) -> None:
        self.skipped: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in POISONED:
            x = batch["x"]["visual"]
            batch["x"]["visual"] = torch.where(
                torch.arange(len(x), device=x.device).view(-1, 1, 1, 1) == 0, torch.inf, x
            )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.dtypes = {f.dtype for f in pl_module.step.features.values()}


class Skips(L.Callback):
    """Notes the batches after which no step had been committed; comes after the pipeline."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module._pipeline.ctx.veto is not None:
            self.batches.append(batch_idx)


def run(place: Place, mode: str, precision: str) -> tuple[torch.Tensor, torch.Tensor, list[int], set[torch.dtype]]:
    """Return the weights at the start and at the end, the batches that were skipped, and the type of the features."""
    began: list[torch.Tensor] = []
    overflow, skips = Overflow(), Skips()

    def prepare(parts: Parts) -> None:
        began.append(start(parts))
        parts.trainer.callbacks.append(skips)  # type: ignore[attr-defined]
        plugin: Any = parts.trainer.precision_plugin
        if precision == "16-mixed":  # the search for the first scale would skip steps of its own
            plugin.scaler = torch.amp.GradScaler(place.device.type, init_scale=SCALE)

    clips = PICTURES.tiny() if place.dry else PICTURES
    given = {"trainer.precision": precision, "callbacks.gate.bad_loss": "skip"}
    parts = trained(place, clips, mode, STEPS, given, [overflow], prepare)
    return began[0], weights(parts), skips.batches, overflow.dtypes


def precision(place: Place) -> Iterator[Row]:
    """Yield, per mode and precision, which steps were skipped and how far the weights are from those of fp32."""
    for mode in RHYTHMS[: 1 if place.dry else None]:
        began, full, skipped, _ = run(place, mode, "32-true")
        yield check(f"{mode}, fp32: skipped", str(skipped), str(list(POISONED)), skipped == list(POISONED))
        for kind, bound in TOLERANCES.items():
            _, half, found, dtypes = run(place, mode, kind)
            expected = {torch.float16 if kind == "16-mixed" else torch.bfloat16}
            yield check(f"{mode}, {kind}: type of the features", *_types(dtypes, expected), dtypes == expected)
            yield check(f"{mode}, {kind}: skipped", str(found), str(skipped), found == skipped)
            distance = float((half - full).norm() / (full - began).norm())
            yield check(
                f"{mode}, {kind}: distance from fp32's weights, of the way they went",
                f"{distance:.4f}",
                f"at most {bound:g}",
                distance <= bound,
            )


def _types(found: set[torch.dtype], expected: set[torch.dtype]) -> tuple[str, str]:
    return ", ".join(sorted(map(str, found))), ", ".join(sorted(map(str, expected)))


PRECISION = Section("precision", "fp16 and bf16 AMP against fp32", 60, precision)
