"""Entropy neither raises the alarm of a collapse nor calms it (specification B2.11).

A bonus on it keeps the distribution flat while its arg-max stays "the". What is watched is margin, top-5 and the rate
of distinct answers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lw_runs import config, history, prepare
from omegaconf import DictConfig
from torch import Tensor

from callbacks.run.collapse import Collapsed, CollapseMonitor, CollapseSample
from latentwire.lm.metrics import first_token
from latentwire.lm.results import AnswerLogprobs

N, VOCAB, THE = 40, 500, 7


def says_the(above: float) -> Tensor:
    """Logits (N, VOCAB) that are the same for every question: flat, with `above` on one token."""
    logits = torch.zeros(N, VOCAB)
    logits[:, THE] = above
    return logits


def knows(above: float) -> Tensor:
    """Question i has its own token i + 10 above a flat rest."""
    return above * torch.nn.functional.one_hot(torch.arange(N) + 10, VOCAB).float()


def sample(logits: Tensor) -> CollapseSample:
    """What a validation hands to the monitor; answer i is the arg-max of row i, and i + 10 is right."""
    scores = logits.log_softmax(-1)
    row = torch.arange(N)
    first = first_token(AnswerLogprobs(scores, row + 10, row, torch.zeros_like(row), N))
    return CollapseSample(
        outputs=[str(i) for i in logits.argmax(-1).tolist()],
        references=[str(i + 10) for i in range(N)],
        margin=first.margin,
        entropy=first.entropy,
        top5=first.top5,
        latents=torch.randn(N, 8, generator=torch.Generator().manual_seed(0)),
    )


def test_entropy_looks_well_while_everything_else_tells() -> None:
    flat, known = CollapseMonitor.indicators(sample(says_the(0.01))), CollapseMonitor.indicators(sample(knows(3.0)))
    assert flat["entropy"] > 0.999 * math.log(VOCAB)
    assert flat["entropy"] > known["entropy"], "by entropy the collapsed one is the healthier"
    assert (flat["distinct"], known["distinct"]) == (1 / N, 1.0)
    assert (flat["commonest"], known["commonest"]) == (1.0, 1 / N)
    assert flat["margin"] < 0.02 < 2.9 < known["margin"]
    assert flat["top5"] < 0.2 < known["top5"] == 1.0


@pytest.mark.parametrize("above", [0.01, 20.0], ids=["flat", "certain"])
def test_a_run_that_says_the_is_stopped_however_flat_it_is(above: float, tmp_path: Path) -> None:
    with pytest.raises(Collapsed, match=rf"distinct 0\.025 below .* in 2 validations.*100% of the answers are '{THE}'"):
        run(tmp_path, sample(says_the(above)))


@pytest.mark.parametrize("above", [0.01, 20.0], ids=["flat", "certain"])
def test_a_run_whose_answers_differ_as_they_should_goes_on(above: float, tmp_path: Path) -> None:
    cfg = run(tmp_path, sample(knows(above)))
    assert history(cfg, "collapse/distinct") == [1.0, 1.0]
    for name in ("margin", "top5", "entropy", "effective_rank", "commonest"):
        assert len(history(cfg, f"collapse/{name}")) == 2


def run(folder: Path, given: CollapseSample) -> DictConfig:
    """A real run of two validations, the monitor as configured but impatient, on a validation that gave `given`."""
    cfg = config(folder, *(f"callbacks.collapse.{s}" for s in ("action=stop", "grace=0", "patience=2")))
    parts = prepare(cfg)
    inner = parts.module.on_validation_epoch_end

    def end() -> None:
        inner()
        if parts.module.sample is not None:
            parts.module.sample = replace(given)

    parts.module.on_validation_epoch_end = end  # type: ignore[method-assign]
    parts.trainer.fit(parts.module, parts.train, parts.val)
    return cfg
