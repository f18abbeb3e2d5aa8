"""Commands of asgml that may be killed anywhere: `python -m suite.torture asgml`."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from suite.torture.case import FOLDER, Case
from suite.torture.left import of_files, of_runs

SAMPLES, CLASSES = 48, 4
RUN = [
    *("experiment=features", f"data.path={FOLDER}/features.npz", "data.dominant=audio", f"paths.runs={FOLDER}/runs"),
    *("loader.batch_size=8", "loader.eval_batch_size=16", "optimizer.lr=0.01", "model.encoder.dim=8"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=8", "trainer.enable_progress_bar=false"),
    *("callbacks.progress=null", "callbacks.checkpoint.every_n_steps=3"),
]
TABLE = [
    *("experiment=table", f"data.path={FOLDER}/mine/table.csv", f"paths.runs={FOLDER}/runs"),
    *("data.size=8", "data.store=[8,8]", "data.mels=8", "data.seconds=0.2"),
]


def features(folder: Path) -> None:
    """Write vectors of two modalities, audio easier than visual."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = np.arange(2 * SAMPLES) % CLASSES
    arrays: dict[str, Any] = {"y": y, "split": np.repeat([0, 1, 2], [SAMPLES, SAMPLES // 2, SAMPLES // 2])}
    for name, noise, size in (("audio", 0.5, 6), ("visual", 2.0, 10)):
        centres = rng.standard_normal((CLASSES, size))
        arrays[f"x_{name}"] = (centres[y] + noise * rng.standard_normal((len(y), size))).astype(np.float32)
    np.savez(folder / "features.npz", **arrays)


def media(folder: Path) -> None:
    """Write a table of sounds and pictures."""
    import numpy as np
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = [("audio", "face", "label", "group")]
    (folder / "mine").mkdir()
    for number in range(2 * SAMPLES):
        label, name = number % CLASSES, f"{number:03d}"
        wave = np.sin(2 * np.pi * 200 * 1.3**label * np.arange(8000) / 16000) + 0.05 * rng.standard_normal(8000)
        soundfile.write(folder / "mine" / f"{name}.wav", (0.3 * wave).astype(np.float32), 16000)
        pixels = np.clip(60 * label + 20 * rng.standard_normal((24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "mine" / f"{name}.png")
        rows.append((f"{name}.wav", f"{name}.png", f"class {label}", f"group {number // CLASSES}"))
    with (folder / "mine" / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def finished_runs(folder: Path) -> None:
    """Do the runs that a report is about."""
    features(folder)
    line = [word.replace(FOLDER, str(folder)) for word in RUN]
    command = [sys.executable, "-m", "asgml.run", "-m", *line, "trainer.max_epochs=1", "seed=0,1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))


CASES = [
    Case("asgml.run", ["-m", "asgml.run", *RUN], of_runs, features),
    Case(
        "asgml.run with workers and stale gradients",
        ["-m", "asgml.run", *RUN, "method=asgml_staleness", "asgml.tau=2", "loader.workers=2"],
        of_runs,
        features,
    ),
    Case(
        "asgml.run in bfloat16",
        ["-m", "asgml.run", *RUN, "trainer.precision=bf16-mixed", "method=ogm_ge", "averaging=ema"],
        of_runs,
        features,
    ),
    Case(
        "asgml.run in parts with long evaluations",
        ["-m", "asgml.run", *RUN, "loader.accumulate=2", "loader.workers=2", "loader.eval_batch_size=1"],
        of_runs,
        features,
    ),
    Case("a sweep", ["-m", "asgml.run", "-m", *RUN, "trainer.max_epochs=3", "seed=0,1,2"], of_runs, features),
    Case(
        "a sweep in two processes",
        ["-m", "asgml.run", "-m", *RUN, "trainer.max_epochs=3", "seed=0,1,2", "launcher=processes"],
        of_runs,
        features,
    ),
    Case(
        "asgml.data.prepare",
        ["-m", "asgml.data.prepare", "--workers", "2", *TABLE],
        of_files("mine/prepared/**/*"),
        media,
    ),
    Case(
        "suite.report",
        ["-m", "suite.report", f"{FOLDER}/runs", "--out", f"{FOLDER}/report.html"],
        of_files("report.html"),
        finished_runs,
    ),
    Case(
        "asgml.compare",
        ["-m", "asgml.compare", f"{FOLDER}/runs", "--no-times"],
        of_files("runs/methods.*"),
        finished_runs,
    ),
]
