"""Small media trees in the published layouts of CREMA-D, AVE and Kinetics-Sounds, and a table: a class shows in all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from asgml.data.ave import EVENTS
from asgml.data.cremad import EMOTIONS


def _media(sound: Path, frames: Path, label: int, seconds: float, pictures: int, rng: np.random.Generator) -> None:
    """Write a tone whose pitch is the class, and pictures whose stripes are as wide as the class, both with noise."""
    sound.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 16000)) / 16000
    wave = 0.3 * np.sin(2 * np.pi * 200 * 1.12**label * time) + 0.05 * rng.standard_normal(len(time))
    soundfile.write(sound, wave.astype(np.float32), 16000)
    frames.mkdir(parents=True)
    for i in range(pictures):
        stripes = 127 + 90 * np.sin(np.arange(64) * 2 * np.pi * (1 + label) / 64 + rng.uniform(0, 6.3))
        pixels = np.clip(stripes[None, :, None] + 20 * rng.standard_normal((48, 64, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(frames / f"{i:05d}.jpg")


def cremad(root: Path, actors: int = 6, takes: int = 1) -> Path:
    """Write `actors` x 6 emotions x `takes` clips of two seconds; the last take of every second actor is test."""
    rng = np.random.default_rng(0)
    train, test = [], []
    for actor in range(1001, 1001 + actors):
        for take in range(takes):
            sentence = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")[take]
            for label, emotion in enumerate(EMOTIONS):
                clip = f"{actor}_{sentence}_{emotion}_XX"
                _media(root / f"AudioWAV/{clip}.wav", root / f"Image-01-FPS/{clip}", label, 2.0, 2, rng)
                held = take == takes - 1 and actor % 2 == 0
                (test if held else train).append(f"{clip},{emotion}")
    (root / "train.csv").write_text("\ufeff" + "\n".join(train) + "\n", encoding="utf-8")
    (root / "test.csv").write_text("\n".join(test) + "\n", encoding="utf-8")
    return root


def ave(root: Path, videos: int = 2) -> Path:
    """Write `videos` training clips of ten seconds for each of the 28 events, and one each for validation and test."""
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, event in enumerate(EVENTS):
        for split, n in {"train": videos, "val": 1, "test": 1}.items():
            for i in range(n):
                video = f"{split[:2]}{label:02d}-{i:05d}_"
                _media(root / f"Audios/{video}.wav", root / f"Image-01-FPS/{video}", label, 10.0, 10, rng)
                lines[split].append(f"{event}&{video}&good&{i % 3}&{8 + i % 3}")
    for split, rows in lines.items():
        (root / f"{split}Set.txt").write_text("\n".join(rows) + "\n")
    header = "Category&VideoID&Quality&StartTime&EndTime"
    everything = [header, *lines["train"], *lines["val"], *lines["test"]]
    (root / "Annotations.txt").write_text("\n".join(everything) + "\n")
    return root


def kinetics_sounds(root: Path, clips: int = 3) -> Path:
    """Write `clips` training clips of ten seconds for each of the 31 classes, and one for test."""
    rng = np.random.default_rng(0)
    for split, n in {"train": clips, "test": 1}.items():
        rows = []
        for label in range(31):
            for i in range(n):
                clip = f"-{split[:2]}{label:03d}_{i:04d}_000010" + ("_000020" if split == "train" else "")
                sound, frames = root / f"{split}_wav/{clip}.wav", root / f"{split}_img/Image-01-FPS/{clip}"
                _media(sound, frames, label, 10.0, 3, rng)
                rows.append(f"{clip},10,{label}")
        (root / f"my_{split}.txt").write_text("\r\n".join(rows) + "\r\n")
    return root


def table(root: Path, n: int = 24) -> Path:
    """Write F.csv: tones whose pitch, pictures whose brightness and notes whose words are the class; some lack it."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for i in range(n):
        label, time = i % 2, np.arange(1600) / 8000
        wave = 0.3 * np.sin(2 * np.pi * 300 * 2**label * time) + 0.02 * rng.standard_normal(1600)
        soundfile.write(root / f"{i}.wav", wave.astype(np.float32), 8000)
        pixels = 60 + 120 * label + rng.integers(0, 40, (10, 10, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i}.jpg")
        note = ("a low tone", "a high one")[label] if i % 5 else ""
        rows.append({"audio": f"{i}.wav", "photo": f"{i}.jpg", "note": note, "label": ("low", "high")[label]})
    with (root / "F.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root / "F.csv"
