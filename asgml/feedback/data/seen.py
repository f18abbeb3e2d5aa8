"""Which pictures a run was trained or chosen on, by what their files hold, so that none is scored as if it were new."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from asgml.data.contents import SIZE
from asgml.data.seen import LEARNED, Seen
from asgml.feedback.data.sample import Sample
from asgml.feedback.data.sources import Splits
from callbacks.errors import UserError
from suite.tensors import read_tensors, write_tensors

FILE = "seen.safetensors"  # of a run
VERSION = "1"


def picture_contents(samples: Sequence[Sample]) -> np.ndarray:
    """Return a digest of the bytes of every picture's file, (n,) int64: the same ones under any name are the same."""
    found = np.zeros(len(samples), dtype=np.int64)
    for i, sample in enumerate(samples):
        with sample.image.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=SIZE)).digest()
        found[i] = int.from_bytes(digest, "little", signed=True)
    return found


def seen_in(splits: Splits) -> Seen:
    """Return the digests of the pictures of training and selection, sorted."""
    return cast("Seen", {split: np.sort(picture_contents(getattr(splits, split))) for split in LEARNED})


def write_seen(folder: Path, seen: Seen | None) -> None:
    """Write what a run has seen into its directory; nothing where that is not known."""
    if seen is not None:
        tensors = {split: torch.from_numpy(digests) for split, digests in seen.items()}
        write_tensors(folder / FILE, tensors, {"version": VERSION})


def read_seen(folder: Path, remedy: str) -> Seen | None:
    """Read what `write_seen` has written; None for a run of an earlier release.

    Args:
        folder: the directory of a run.
        remedy: what to do about damage, for the error.

    Raises:
        UserError: a damaged file, or one of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tensors, about = read_tensors(path, "the digests of the pictures of a run", remedy)
    if about.get("version") != VERSION:
        raise UserError(str(path), f"version {about.get('version')}", f"version {VERSION}", remedy)
    return {split: tensors[split].numpy() for split in LEARNED}
