"""Small runs of the real asgml program, composed, built and fitted in this process (about 0.2 s each)."""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from asgml.build import Parts, build
from asgml.run import earlier, train
from suite.config.compose import Composer
from suite.runs.identity import run_dir
from suite.runs.job import RESULT, Run, execute, seed_everything
from suite.runs.ledger import write_json

ROOT = Path(__file__).resolve().parents[1]
_COMPOSER = Composer("asgml")
_GROUPS = set(_COMPOSER.groups())

# Measured, not computed: these differ between two runs of the same numbers.
MEASURED = ("time/step_ms", "memory/peak_mb")


def write_features(path: Path, kind: str = "vector", n: int = 120, missing: float = 0.0, seed: int = 0) -> Path:
    """Write an .npz with the modalities audio (easy) and visual (hard) and 4 classes; `kind` is `vector` or `image`."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    shape = {"audio": (1, 12, 12), "visual": (1, 16, 16)} if kind == "image" else {"audio": (6,), "visual": (10,)}
    arrays: dict[str, np.ndarray] = {"y": y, "split": np.repeat([0, 1, 2], [n - 40, 20, 20])}
    for m, (noise, s) in {"audio": (0.5, shape["audio"]), "visual": (2.0, shape["visual"])}.items():
        centres = rng.standard_normal((4, *s))
        arrays[f"x_{m}"] = (centres[y] + noise * rng.standard_normal((n, *s))).astype(np.float32)
    if missing:
        gone = rng.random(n)
        arrays["present_audio"] = gone >= missing
        arrays["present_visual"] = gone < 1 - missing
    np.savez(path, **arrays)
    return path


def overrides(npz: Path, runs: Path) -> list[str]:
    """Return the command line of a small run: 2 epochs of 10 batches of 8 on the CPU, without display."""
    return [
        "experiment=features",
        f"data.path={npz}",
        "data.dominant=audio",
        f"paths.runs={runs}",
        "loader.batch_size=8",
        "loader.eval_batch_size=16",
        "optimizer=sgd",  # with momentum, which is where held encoders and stale gradients can go wrong
        "optimizer.lr=0.05",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=3",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "callbacks.probe.every=3",
        "callbacks.probe.holdout_size=12",
        "callbacks.diagnostics.every=4",
        "model.encoder.dim=8",
    ]


@cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    return _COMPOSER.compose(choices)


def compose(line: Sequence[str]) -> DictConfig:
    """Compose a command line. Trees of the same choices are composed once, because that takes longer than a run."""
    parsed = OverridesParser.create().parse_overrides(list(line))
    choices = tuple(o.input_line or "" for o in parsed if o.key_or_group in _GROUPS)
    cfg = copy.deepcopy(_chosen(choices))
    for o in parsed:
        if o.key_or_group not in _GROUPS:
            OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True, force_add=o.is_add())
    return cfg


def config(npz: Path, runs: Path, *more: str) -> DictConfig:
    """Compose `overrides` and more of them."""
    return compose([*overrides(npz, runs), *more])


def prepare(cfg: DictConfig, callbacks: Sequence[L.Callback] = ()) -> Parts:
    """Build the seeded parts of a run in its own directory; `callbacks` come after the run's own."""
    seed_everything(int(cfg.seed))
    folder = run_dir(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    parts = build(cfg, Run(folder, folder.name, str(cfg.name), int(cfg.seed), None, True))
    parts.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    return parts


def fit(cfg: DictConfig, callbacks: Sequence[L.Callback] = (), resume: bool = False) -> Parts:
    """Do a run from its beginning, or continue it from its `last.ckpt`."""
    parts = prepare(cfg, callbacks)
    checkpoint = str(run_dir(cfg) / "checkpoints" / "last.ckpt") if resume else None
    parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    return parts


def finish(cfg: DictConfig) -> Path:
    """Do a whole run as its command does, evaluation and record included, and return its directory."""
    outcome = execute(cfg, "asgml", train, earlier, tell=lambda line: None)
    assert outcome.status in ("finished", "skipped"), outcome.error
    return outcome.dir


def finish_treated(cfg: DictConfig) -> DictConfig:
    """Do the run that a yoked control replays, unless it is there, and return its configuration."""
    treated = copy.deepcopy(cfg)
    treated.asgml.control = "none"
    if not (run_dir(treated) / RESULT).exists():
        fit(treated)
        write_json(run_dir(treated) / RESULT, {"status": "finished"})
    return treated


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    """Return a copy of the module's parameters and buffers."""
    return {k: v.detach().clone() for k, v in parts.module.state_dict().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Return the names whose tensors are not bit-identical."""
    assert a.keys() == b.keys()
    return [k for k in a if not torch.equal(a[k], b[k])]


def rows(cfg: DictConfig, name: str) -> list[list[str]]:
    """Return the rows of a table of the run directory, without the measured quantities."""
    with (run_dir(cfg) / name).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if not (name == "history.csv" and row[2] in MEASURED)]
