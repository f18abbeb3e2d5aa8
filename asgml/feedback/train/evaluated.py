"""EvaluatedModule: the Lightning shell of a `FeedbackModel` that is scored. Finished weights need no more than this."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from asgml.feedback.metrics.loops import MEAN, NAMES, AnomalyMetrics, Scores
from asgml.feedback.model.system import FeedbackModel, Loop
from asgml.feedback.scores import anomaly_map, picture_score
from callbacks.step.divergence import refuse_not_finite
from callbacks.step.ranks import sum_over_ranks
from callbacks.step.stage import find_pipeline

Batch = dict[str, Tensor]
LOW, HIGH = -0.5, 1.5  # of a pixel's score


class EvaluatedModule(L.LightningModule):
    """Scores pictures after every loop, and in `Trainer.test` the metrics of every class.

    The CLIP is no submodule of the model: it follows to the device and the precision of what is trained.

    Args:
        model: the model.
        blur: the side of the Gaussian on maps, in patches.
        sigma: its standard deviation, in patches.
        detection: the share of a picture's own probability in its score.

    Raises:
        Diverged: scores of pixels or pictures that are no numbers, at the end of an evaluation.

    Attributes:
        metrics: by split, the metrics of the last loop as means over classes, and of every loop as `<name>/loop<n>`.
        per_class: by split and loop, the metrics by class.
        fingerprint: that of the CLIP.
    """

    def __init__(self, model: FeedbackModel, blur: int = 7, sigma: float = 1.0, detection: float = 0.5):
        super().__init__()
        self.model = model
        self.blur, self.sigma, self.detection = blur, sigma, detection
        self.metrics: dict[str, dict[str, float]] = {}
        self.per_class: dict[str, list[dict[str, dict[str, float | None]]]] = {}
        self.fingerprint = model.clip.fingerprint()
        self._scores: AnomalyMetrics | None = None

    def bring_clip(self) -> None:
        """Bring the CLIP, which Lightning does not see, to the device and the precision of what is trained."""
        self.model.clip.to(self.device, next(self.model.parameters()).dtype)

    def setup(self, stage: str) -> None:
        self.bring_clip()

    def maps(self, loops: Sequence[Loop], size: int) -> tuple[Tensor, Tensor]:
        """Return the scores of pixels (B, loops, H, W) and of pictures (B, loops) after every loop."""
        scale = self.model.logit_scale
        maps = [anomaly_map(x.patches, size, self.blur, self.sigma, scale).clamp(LOW, HIGH) for x in loops]
        pictures = [picture_score(m, x.logits, self.detection) for m, x in zip(maps, loops, strict=True)]
        return torch.stack(maps, 1), torch.stack(pictures, 1)

    def scored(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores of a batch's pixels (B, loops, S, S) and pictures (B, loops) after every loop."""
        return self.maps(self.model(batch["image"], batch["class"]), batch["image"].shape[-1])

    def _begin(self) -> None:
        self.bring_clip()
        self._scores = AnomalyMetrics(self.model.classes, max(1, self.model.loops), LOW, HIGH)
        self._total = torch.zeros(2, device=self.device)

    def _evaluate(self, batch: Batch) -> None:
        assert self._scores is not None
        maps, pictures = self.scored(batch)
        self._total += torch.stack([maps.float().sum(), pictures.float().sum()]).detach()
        if not torch.isfinite(self._total).all():
            return  # refused at the end, on all ranks together
        self._scores.update(maps, batch["mask"], pictures, batch["label"], batch["class"].cpu())

    def _finish(self, split: str) -> None:
        assert self._scores is not None
        total = dict(zip(("pixels", "pictures"), sum_over_ranks(self._total).tolist(), strict=True))
        pipeline = find_pipeline(self.trainer)  # none where a model is only evaluated
        where = f"{split} scores after step {0 if pipeline is None else pipeline.t}"
        refuse_not_finite(self.trainer, where, "finite scores of pixels and pictures", total)
        found, self._scores = self._scores.compute(), None
        if self.trainer.sanity_checking:
            return
        self.per_class[split] = [{name: plain(row) for name, row in rows.items()} for rows in found]
        self.metrics[split] = flat(self.per_class[split])
        named = {f"{split}/{k}": v for k, v in self.metrics[split].items()}
        for name, value in named.items():
            self.log(name, value, logger=False, prog_bar=name == f"{split}/pixel_auroc")

    def on_test_epoch_start(self) -> None:
        self._begin()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._finish("test")


def plain(scores: Scores) -> dict[str, float | None]:
    """Return metrics as numbers; None where there is none."""
    return {name: None if value is None else value.value for name, value in scores.items()}


def flat(loops: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, float]:
    """Return the means over classes: of the last loop by name, of every loop as `<name>/loop<n>`."""
    found: dict[str, float] = {}
    for name in NAMES:
        values = [rows[MEAN][name] for rows in loops]
        if values[-1] is not None:
            found[name] = values[-1]
        found |= {f"{name}/loop{n}": v for n, v in enumerate(values, 1) if v is not None}
    return found
