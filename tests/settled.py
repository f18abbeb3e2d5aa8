"""Synthetic results of `study settle` on disk: chosen accuracies, curves and timelines, without any training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ENCODERS = ("audio", "visual")
CURVE = (0.2, 0.4, 0.6, 0.8)  # validation accuracy, an epoch each
PER_EPOCH = 4  # steps


@dataclass(frozen=True)
class Row:
    """What a row is said to have done.

    Attributes:
        test: the test accuracy at the best validation epoch, in %, by seed.
        asgml: what its `asgml` node sets.
        methods: its `methods` node.
        of: the row that it is a control of.
        curve: the validation accuracy, 0–1, per epoch.
        actions: per encoder what it does in turn, step after step.
        probes: per encoder the steps at which its probe is first at 90 %, by seed.
        load: what `StabilityGuard` measured.
        losses: per encoder the step at which its head's loss falls from that of guessing to 0.1, by seed.
    """

    test: Sequence[float]
    asgml: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    curve: Sequence[float] = CURVE
    actions: Mapping[str, Sequence[str]] = field(default_factory=lambda: {m: ["update"] for m in ENCODERS})
    probes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    load: float | None = None
    losses: Mapping[str, Sequence[int]] = field(default_factory=dict)


def write_study(
    runs: Path, name: str, rows: Mapping[str, Row], npz: Path, trials: int = 8, study: str = "settle"
) -> Path:
    """Write a data set of a study, every row with a seed for each of its accuracies, and return its folder."""
    folder = runs / f"{study}_{name}"
    tuned = {}
    for label, row in rows.items():
        hashes = {str(seed): _write(folder, label, row, seed, npz) for seed in range(len(row.test))}
        tried = [{"values": {"optimizer.lr": 0.1}, "runs": {}, "score": 0.5, "loss": 1.0}] * (0 if row.of else trials)
        tuned[label] = {
            "of": row.of,
            "ranges": {} if row.of else {"optimizer.lr": "[0.0125, 0.8] log"},
            "trials": tried,
            "chosen": None if row.of else 0,
            "point": {"optimizer.lr": 0.1},
            "settings": label,
            "runs": hashes,
        }
    (folder / "tuned.json").write_text(json.dumps({"rows": tuned}), encoding="utf-8")
    return folder


def _write(folder: Path, label: str, row: Row, seed: int, npz: Path) -> str:
    key = hashlib.sha256(f"{folder.name} {label} {seed}".encode()).hexdigest()[:12]
    run = folder / key
    run.mkdir(parents=True)
    config = {
        "program": "asgml",
        "name": folder.name,
        "label": label,
        "seed": seed,
        "paths": {"runs": str(folder.parent), "data": "data"},
        "data": {"_target_": "asgml.data.Features", "path": str(npz), "dominant": "audio"},
        "model": {
            "_target_": "asgml.model.MultimodalNet",
            "_partial_": True,
            "_convert_": "all",
            "encoder": {"_target_": "asgml.model.MLP", "_partial_": True, "hidden": 5, "dim": 3},
            "encoders": {},
            "fusion": {"_target_": "asgml.model.Concat", "_partial_": True},
        },
        "loader": {"missing": {}},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.0},
        "methods": dict(row.methods),
        "asgml": {"_target_": "asgml.rhythm.Asgml", **row.asgml},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    best = max(range(len(row.curve)), key=row.curve.__getitem__)
    test = row.test[seed] / 100
    stability = {} if row.load is None else {"stability": {"worst": {"audio": {"load": row.load}}}}
    result = {
        "program": "asgml",
        "experiment": folder.name,
        "hash": key,
        "seed": seed,
        "status": "finished",
        "classes": ["0", "1", "2", "3"],
        "best_epoch": best,
        "val_best": {"accuracy": row.curve[best], "loss": 1.0},
        "test_best": {"accuracy": test, "accuracy/audio": test, "accuracy/visual": test / 2, "loss": 1.0},
        "counters": stability,
    }
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    _curves(run, row, seed)
    return key


def _curves(run: Path, row: Row, seed: int) -> None:
    """Write the validation curve, a training accuracy 0.1 above it, probes, and what every encoder did."""
    history, timeline = list[tuple[int, int, str, float]](), list[str]()
    for epoch, accuracy in enumerate(row.curve):
        step = (epoch + 1) * PER_EPOCH
        history += [(step, epoch, "val/accuracy", accuracy), (step, epoch, "train/accuracy", accuracy + 0.1)]
        for m in ENCODERS:
            history.append((step, epoch, f"val/accuracy/{m}", accuracy / (1 + (m == "visual"))))
    for m, at in row.probes.items():
        history += [(step, 0, f"probe/accuracy/{m}", 0.9 if step >= at[seed] else 0.1) for step in range(1, 100)]
    for m, at in row.losses.items():
        history += [(step, 0, f"train/loss/{m}", 0.1 if step >= at[seed] else 1.386) for step in range(1, 200)]
    history.sort(key=lambda entry: entry[0])
    for step in range(len(row.curve) * PER_EPOCH):
        for m, turn in row.actions.items():
            timeline.append(f"{step},{m},{turn[step % len(turn)]},0,1.0")
    lines = ["step,epoch,name,value", *(",".join(map(str, entry)) for entry in history)]
    (run / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    head = "step,modality,action,age,scale"
    (run / "timeline.csv").write_text("\n".join([head, *timeline]) + "\n", encoding="utf-8")
