"""Which pictures a run was trained or chosen on, by what their files hold, so that none is scored as if it were new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from asgml.data.contents import SIZE
from asgml.data.seen import LEARNED, Seen, joined
from asgml.feedback.data.sample import Sample
from asgml.feedback.data.sources import Splits
from callbacks.errors import UserError
from suite.tensors import read_tensors, write_tensors

FILE = "seen.safetensors"  # of a run
VERSION = "1"
AGAIN = "repeat the run's command with resume=never"


def picture_contents(samples: Sequence[Sample]) -> np.ndarray:
    """Return a digest of the bytes of every picture's file, (n,) int64: the same ones under any name are the same."""
    found = np.zeros(len(samples), dtype=np.int64)
    for i, sample in enumerate(samples):
        with sample.image.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=SIZE)).digest()
        found[i] = int.from_bytes(digest, "little", signed=True)
    return found


def seen_by(splits: Splits, before: Iterable[Path] = ()) -> Seen | None:
    """Return the digests of the pictures of training and selection, sorted; None where some are not known.

    Args:
        splits: those of the run.
        before: the directories of the runs whose weights it starts from; what they have seen, it has.
    """
    own = cast("Seen", {split: np.sort(picture_contents(getattr(splits, split))) for split in LEARNED})
    return joined(own, *(read_seen(folder) for folder in before))


def write_seen(folder: Path, seen: Seen | None) -> None:
    """Write what a run has seen into its directory; nothing where that is not known."""
    if seen is not None:
        tensors = {split: torch.from_numpy(digests) for split, digests in seen.items()}
        write_tensors(folder / FILE, tensors, {"version": VERSION})


def read_seen(folder: Path) -> Seen | None:
    """Read what `write_seen` has written into the directory of a run; None for one of an earlier release.

    Raises:
        UserError: a damaged file, or one of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    tensors, about = read_tensors(path, "the digests of the pictures of a run", AGAIN)
    if about.get("version") != VERSION:
        raise UserError(str(path), f"version {about.get('version')}", f"version {VERSION}", AGAIN)
    return {split: tensors[split].numpy() for split in LEARNED}
