"""What the report's tests read: run directories in the suite's file formats, filled with plausible numbers."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from callbacks.run.history import EVENTS, HISTORY, TIMELINE, ActionCounts, RunFile

MODALITIES = ("audio", "visual")
JOINT: dict[str, Any] = {"method": {}, "mode": "sync", "tau": 0, "level": 0.60}
OGM_GE: dict[str, Any] = {
    "method": {"ogm_ge": {"_target_": "asgml.methods.ogm_ge.OgmGe", "alpha": 0.8}},
    "mode": "sync",
    "tau": 0,
    "level": 0.63,
}
STALENESS: dict[str, Any] = {"method": {}, "mode": "staleness", "tau": 2, "level": 0.62}
FREQUENCY: dict[str, Any] = {"method": {}, "mode": "frequency", "tau": 2, "level": 0.615}
ADAPTIVE: dict[str, Any] = {"method": {}, "mode": "adaptive", "tau": 2, "level": 0.64}
FIVE = (JOINT, OGM_GE, STALENESS, FREQUENCY, ADAPTIVE)


def config_of(kind: dict[str, Any], seed: int, experiment: str = "cremad_mini") -> dict[str, Any]:
    """Return a resolved config in the tree of conf/asgml/config.yaml."""
    return {
        "program": "asgml",
        "name": experiment,
        "seed": seed,
        "resume": "auto",
        "paths": {"runs": "runs", "data": "data"},
        "data": {"_target_": "asgml.data.CremadMini", "dominance": 0.7},
        "loader": {"batch_size": 64, "eval_batch_size": 256, "workers": 0},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.001, "momentum": 0.9},
        "methods": kind["method"],
        "group_lr": {},
        "asgml": {"_target_": "asgml.rhythm.Asgml", "mode": kind["mode"], "gamma": 1.0, "tau": kind["tau"]},
        "trainer": {"_target_": "lightning.Trainer", "max_epochs": 12, "devices": 1},
    }


def write_five(runs: Path) -> Path:
    """Write five configurations with three seeds, everything logged; return the folder."""
    for kind in FIVE:
        for seed in range(3):
            write_run(runs, kind, seed, epochs=6, per_epoch=10)
    return runs


def as_read(page: str) -> str:
    """Return what a reader of a page sees: no scripts, no tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S).replace("<wbr>", "")
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def write_run(
    runs: Path,
    kind: dict[str, Any],
    seed: int,
    *,
    status: str = "finished",
    experiment: str = "cremad_mini",
    epochs: int = 12,
    per_epoch: int = 25,
    history: bool = True,
    predictions: bool = True,
    label: str | None = None,
    modalities: tuple[str, ...] = MODALITIES,
    tree: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write one run directory and its ledger row, `tree` in its configuration and `more` in its result; return it."""
    rng = np.random.default_rng([seed, FIVE.index(kind) if kind in FIVE else 9])
    config = {**config_of(kind, seed, experiment), **(tree or {})}
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    folder = runs / experiment / key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    total = epochs * per_epoch
    level = kind["level"] + rng.normal(0, 0.012)
    if history:
        _history(folder, kind, level, rng, epochs, per_epoch, modalities)
        counters = _timeline(folder, kind, rng, total, modalities)
        _events(folder, kind, per_epoch)
    else:
        counters = {}
    result: dict[str, Any] = {
        "program": "asgml",
        "experiment": experiment,
        "hash": key,
        "seed": seed,
        "status": status,
        "counters": {**counters, "skipped": 1},
        "seconds": 41.5 + seed,
        "peak_memory_mb": 612.25,
        "commit": "0123abc",
        "versions": {"python": "3.11.9", "torch": "2.11.0", "lightning": "2.6.6"},
        "started": f"2026-01-0{seed + 1}T00:00:00",
        "finished": None,
        "error": None,
        "val": None,
        "test": None,
        "val_best": None,
        "test_best": None,
    }
    result |= more or {}
    if label is not None:
        result["label"] = label
    if status == "finished":
        for split, shift in [("val", 0.0), ("test", -0.01), ("val_best", 0.02), ("test_best", 0.005)]:
            result[split] = {
                "loss": 1.1,
                "accuracy": level + shift,
                "macro_f1": level + shift - 0.02,
                "map": level + 0.05,
            }
            result[split] |= {f"accuracy/{m}": level - 0.08 * (i + 1) + shift for i, m in enumerate(modalities)}
        if predictions:
            _predictions(folder, level, rng, modalities)
    if status == "failed":
        result["error"] = "ValueError: loss is NaN\nat step 12"
    if status != "running":
        (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    row = {
        **result,
        "config": config,
        "run_dir": str(folder),
        "traceback": "Traceback: …" if status == "failed" else None,
    }
    with (runs / "ledger.jsonl").open("a", encoding="utf-8") as ledger:
        ledger.write(json.dumps(row) + "\n")
    return folder


def _history(
    folder: Path,
    kind: dict[str, Any],
    level: float,
    rng: np.random.Generator,
    epochs: int,
    per_epoch: int,
    modalities: tuple[str, ...],
) -> None:
    rows: list[tuple[int, int, str, float]] = []
    groups = [*modalities, "fusion"]
    for t in range(1, epochs * per_epoch + 1):
        epoch, x = (t - 1) // per_epoch, t / (epochs * per_epoch)
        loss = 1.8 * np.exp(-2 * x) + 0.2 + rng.normal(0, 0.05)
        values = {"train/loss": loss, "time/step_ms": 30 + rng.exponential(1.5) + (8 if kind["method"] else 0)}
        if t % 5 == 0:
            parts = rng.dirichlet([30 * (1 + x), *[20.0] * len(modalities)])
            values |= dict(zip([f"share/{g}" for g in ["fusion", *modalities]], parts))
            norms = {g: float(np.exp(-x * (i + 1)) * (1 + rng.normal(0, 0.1))) for i, g in enumerate(groups)}
            values |= {f"grad_norm/{g}": n for g, n in norms.items()}
            values |= {f"grad_share/{g}": n / sum(norms.values()) for g, n in norms.items()}
            values |= {f"delta/{g}": n * 1e-3 for g, n in norms.items()}
            values |= {f"update_ratio/{g}": n * 1e-4 for g, n in norms.items()}
            values |= {f"lr/{g}": 1e-3 * (0.1 if x > 0.7 else 1) for g in groups}
            for i, m in enumerate(modalities):
                values[f"cosine/{m}"] = 0.5 - 0.4 * x + rng.normal(0, 0.1)
                values[f"fisher/{m}"] = (0.1 + x * np.exp(-(4 + 3 * i) * x) * 10) * (1 + 0.1 * rng.normal())
                values[f"probe/accuracy/{m}"] = (level - 0.05 * i) * (1 - np.exp(-4 * x / (1 + i)))
                if kind["mode"] == "adaptive":
                    values[f"tau/{m}"] = (2.0 if x > 0.3 else 0.0) * (i == 0)
                    values[f"S/{m}"] = 1 + (0.3 if i == 0 else -0.3) * x
                    values[f"G/{m}"], values[f"D/{m}"] = 1 + rng.normal(0, 0.1), 1 + rng.normal(0, 0.2)
                    values[f"U/{m}"] = values[f"probe/accuracy/{m}"]
            values["probe/gap"] = 0.05 + 0.1 * x
            values["memory/peak_mb"] = 600 + 12 * min(1.0, 10 * x)
        if t % per_epoch == 0:
            values |= {"val/loss": loss + 0.2, "val/accuracy": level * (1 - np.exp(-4 * x)) + rng.normal(0, 0.01)}
            for i, m in enumerate(modalities):
                values[f"val/accuracy/{m}"] = (level - 0.08 * (i + 1)) * (1 - np.exp(-4 * x / (1 + i)))
        rows += [(t, epoch, name, value) for name, value in values.items()]
    _csv(folder, HISTORY, rows)


def _timeline(
    folder: Path, kind: dict[str, Any], rng: np.random.Generator, total: int, modalities: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    rows: list[tuple[int, str, str, int, float]] = []
    done = ActionCounts(modalities)
    for t in range(1, total + 1):
        for m in modalities:
            action, age, scale = "update", 0, 1.0
            slow = m == modalities[0]
            if t == 40:
                action, age = "veto", -1
            elif m == modalities[-1] and rng.random() < 0.02:
                action, age = "missing", -1
            elif slow and kind["mode"] == "staleness":
                action, age, scale = ("hold", -1, 1.0) if t <= 2 else ("update", 2, 1 / 1.2)
            elif slow and kind["mode"] == "frequency" and t % 3:
                action, age = "hold", -1
            elif slow and kind["mode"] == "adaptive" and t > 0.3 * total:
                age, scale = 2, 1 / 1.2
            if action != "veto":
                done.book(m, action)
            rows.append((t, m, action, age, scale))
    _csv(folder, TIMELINE, rows)
    return {**done.table(), "dropped": dict.fromkeys(modalities, 0)}


def _events(folder: Path, kind: dict[str, Any], per_epoch: int) -> None:
    rows = [(40, 40 // per_epoch, "gate", 'skipped: gradient of "audio" is not finite')]
    if kind["mode"] == "adaptive":
        rows.append((91, 91 // per_epoch, "schedule", "audio tau 0->2 because S 1.31 over the mean, ramp 1"))
    _csv(folder, EVENTS, rows)


def _predictions(folder: Path, level: float, rng: np.random.Generator, modalities: tuple[str, ...]) -> None:
    n, classes = 90, 6
    y = np.random.default_rng(0).integers(classes, size=n)  # one test set for all runs
    prob = rng.random((n, classes)) * 0.1
    right = rng.random(n) < level
    prob[np.arange(n), np.where(right, y, (y + 1) % classes)] += 1
    prob /= prob.sum(1, keepdims=True)
    arrays: dict[str, Any] = {"index": np.arange(n), "y": y, "split": np.repeat([1, 2], [30, 60]), "prob": prob}
    for name in ("predictions.npz", "predictions_best.npz"):
        np.savez(folder / name, **arrays, **{f"prob_{m}": prob for m in modalities})


def _csv(folder: Path, file: RunFile, rows: list[Any]) -> None:
    with (folder / file.name).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(file.columns)
        writer.writerows(rows)
