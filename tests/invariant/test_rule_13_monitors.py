"""Specification A2.13: probes, diagnostics, logging, loader workers and evaluation leave every bit as it is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from asgml_runs import compose, config, differing, fit, rows, weights, write_features

DROPOUT = "+model.encoders.visual={_target_:asgml.model.MLP,_partial_:true,dim:8,hidden:16,dropout:0.3}"
RANDOM = ["model.encoder.norm=batch", DROPOUT]  # draws from the global generator in every forward

BASES: dict[str, list[str]] = {
    "staleness": RANDOM,
    "ogm_ge": [*RANDOM, "method=[asgml_frequency,ogm_ge]", "methods.ogm_ge.kernels=all", "asgml.masking=hard"],
}
MONITORS: dict[str, list[str]] = {
    "no probes": ["callbacks.probe=null"],
    "probes of every step": ["callbacks.probe.every=1", "+callbacks.probe.hidden=4"],
    "probes on half a batch": ["callbacks.probe.holdout=half"],
    "probes on validation data": ["callbacks.probe.holdout=validation", "callbacks.probe.budget=null"],
    "no diagnostics": ["callbacks.diagnostics=null"],
    "diagnostics of every step": ["callbacks.diagnostics.every=1"],
    "no cosine": ["cosine_every=0"],
    "cosine of every step": ["cosine_every=1"],
    "every step logged": ["trainer.log_every_n_steps=1"],
    "no validation": ["trainer.check_val_every_n_epoch=5"],
    "sanity validation": ["trainer.num_sanity_val_steps=2"],
    "many checkpoints": ["callbacks.checkpoint.every_n_steps=1"],
    "few callbacks": ["callbacks.alarm=null", "callbacks.rng=null", "callbacks.stop=null"],
    "progress bar": ["callbacks.progress={_target_:callbacks.StepProgress}",
                     "trainer.enable_progress_bar=true"],
    "two workers": ["loader.workers=2"],
}  # fmt: skip
# processes are slow to start, and the loader does not know the method
PAIRS = [(b, m) for b in BASES for m in MONITORS if b == "staleness" or m != "two workers"]


class Draws(L.Callback):
    """Keeps the state of the three global generators from before every batch and from the end of training."""

    def __init__(self) -> None:
        self.states: list[tuple[Any, ...]] = []

    def note(self) -> None:
        numpy: Any = np.random.get_state()
        self.states.append((torch.get_rng_state().numpy().tobytes(), numpy[1].tobytes(), numpy[2], random.getstate()))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.note()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.note()


Reference = tuple[dict[str, torch.Tensor], list[tuple[Any, ...]], list[list[str]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("monitors") / "data.npz", missing=0.2)


@pytest.fixture(scope="module")
def references(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    out = {}
    for name, more in BASES.items():
        cfg, draws = config(data, tmp_path_factory.mktemp("base"), *more), Draws()
        out[name] = (weights(fit(cfg, [draws])), draws.states, rows(cfg, "timeline.csv"))
    return out


@pytest.mark.parametrize(("base", "monitor"), PAIRS)
def test_monitors_do_not_disturb(
    data: Path, tmp_path: Path, references: dict[str, Reference], base: str, monitor: str
) -> None:
    """Bit-identical weights and decisions, and the same random draws at every step."""
    cfg, draws = config(data, tmp_path, *BASES[base], *MONITORS[monitor]), Draws()
    parts = fit(cfg, [draws])
    expected, states, timeline = references[base]
    assert not differing(weights(parts), expected)
    assert rows(cfg, "timeline.csv") == timeline
    assert [i for i, (a, b) in enumerate(zip(draws.states, states, strict=True)) if a != b] == []


def test_each_monitor_is_logged_at_its_own_interval(data: Path, tmp_path: Path) -> None:
    """Nothing that was measured is lost because the trainer logs at another interval."""
    intervals = ["trainer.log_every_n_steps=7", "callbacks.diagnostics.every=4", "callbacks.probe.every=3"]
    cfg = config(data, tmp_path, *intervals)
    fit(cfg)
    steps: dict[str, list[int]] = {}
    for step, _, name, _ in rows(cfg, "history.csv")[1:]:
        steps.setdefault(name, []).append(int(step))
    assert steps["delta/fusion"] == [1, 4, 8, 12, 16, 20]
    assert steps["probe/accuracy/visual"] == [3, 6, 9, 12, 15, 18]
    assert set(steps["train/loss"]) >= {7, 14}


def test_another_seed_gives_other_weights(data: Path, tmp_path: Path, references: dict[str, Reference]) -> None:
    parts = fit(config(data, tmp_path, *BASES["staleness"], "seed=1"))
    assert differing(weights(parts), references["staleness"][0])


@pytest.mark.slow
def test_wandb_does_not_disturb(data: Path, tmp_path: Path, references: dict[str, Reference]) -> None:
    offline = ["logger=wandb", "logger.wandb.mode=offline"]
    parts = fit(config(data, tmp_path, *BASES["staleness"], *offline))
    assert not differing(weights(parts), references["staleness"][0])
    assert list(tmp_path.rglob("*.wandb"))


def test_workers_do_not_disturb_augmented_media(tmp_path: Path) -> None:
    """Rendered clips with random crops: the same weights with 0 and with 2 workers."""
    line = ["experiment=cremad_mini", f"paths.data={tmp_path}", "data.samples=96", "data.actors=8",
            "loader.batch_size=8", "trainer.max_epochs=2", "trainer.enable_progress_bar=false",
            "callbacks.progress=null"]  # fmt: skip
    found = [weights(fit(compose([*line, f"paths.runs={tmp_path / str(n)}", f"loader.workers={n}"]))) for n in (0, 2)]
    assert not differing(*found)
