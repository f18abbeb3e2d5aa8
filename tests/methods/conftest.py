"""Data of the method tests: small feature sets with two or three modalities, some rows missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

WIDTHS = {"audio": 6, "visual": 10, "text": 8}
NOISE = {"audio": 0.5, "visual": 2.0, "text": 1.2}


def write(path: Path, modalities: int, missing: float = 0.15, n: int = 64) -> Path:
    """An .npz of 4 classes: 32 training rows, 16 of validation, 16 of test; no row without any modality."""
    rng = np.random.default_rng(3)
    y = np.arange(n) % 4
    arrays: dict[str, np.ndarray] = {"y": y, "split": np.repeat([0, 1, 2], [n - 32, 16, 16])}
    gone = rng.random(n)
    for i, m in enumerate(list(WIDTHS)[:modalities]):
        centres = rng.standard_normal((4, WIDTHS[m]))
        arrays[f"x_{m}"] = (centres[y] + NOISE[m] * rng.standard_normal((n, WIDTHS[m]))).astype(np.float32)
        arrays[f"present_{m}"] = (gone < i * missing) | (gone >= (i + 1) * missing)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of modalities."""
    folder = tmp_path_factory.mktemp("features")
    return {n: write(folder / f"{n}.npz", n) for n in (2, 3)}
