"""CREMA-D (Cao et al., IEEE TAC 2014): 7442 clips, 91 actors, six emotions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from asgml.data.media_source import Clip, MediaSource, label_of, read_rows, require_unique
from asgml.data.ranges import Pixels
from asgml.data.spec import Split
from asgml.data.splits import cut
from callbacks.errors import UserError
from callbacks.ranges import OpenShare, Seed

EMOTIONS = ["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"]


@dataclass
class CremaD(MediaSource):
    """Reads CREMA-D in its published layout, `LAYOUT`.

    Args:
        split: `published` keeps test.csv as the test set; all 91 actors are in both published lists, so this
            measures new utterances of known speakers. Validation is cut from train.csv by speaker.
            `speaker_disjoint` pools the two lists and cuts train, validation and test by actor.
        val_fraction: the share that becomes validation, of train.csv (`published`) or of everything
            (`speaker_disjoint`).
        test_fraction: the share of everything that becomes test, under `speaker_disjoint` only.
        split_seed: the seed of the cuts.
        train_list: the file name of the train list under `path`.
        test_list: the file name of the test list under `path`.

    The other arguments are those of `MediaSource`.
    """

    NAME: ClassVar[str] = "CREMA-D"
    EXPERIMENT: ClassVar[str] = "cremad"
    LAYOUT: ClassVar[str] = """\
train.csv, test.csv                 id,LABEL without header
AudioWAV/<id>.wav
Image-01-FPS/<id>/00000.jpg …       one frame per second"""
    OBTAIN: ClassVar[str] = (
        "get AudioWAV and VideoFlash from github.com/CheyneyComputerScience/CREMA-D (git-lfs), extract one frame"
        " per second to Image-01-FPS/<id>/00000.jpg, and put train.csv and test.csv (github.com/GeWu-Lab/"
        "OGM-GE_CVPR2022, data/CREMAD) beside them"
    )
    DOMINANT: ClassVar[str | None] = "audio"
    GROUPED_BY: ClassVar[str | None] = "actor"

    store: list[Pixels] = field(default_factory=lambda: [270, 360])
    split: Literal["published", "speaker_disjoint"] = "published"
    val_fraction: OpenShare = 0.1
    test_fraction: OpenShare = 0.2
    split_seed: Seed = 0
    train_list: str = "train.csv"
    test_list: str = "test.csv"

    @property
    def class_names(self) -> list[str]:
        return list(EMOTIONS)

    @property
    def folders(self) -> tuple[str, str]:
        return "AudioWAV", "Image-01-FPS"

    @property
    def list_files(self) -> dict[str, Path]:
        return {name: self.root / name for name in (self.train_list, self.test_list)}

    def facts(self) -> dict[str, Any]:
        if self.split == "speaker_disjoint":
            shares = f"{self.val_fraction:g} and {self.test_fraction:g}"
            rule = f"lists pooled, val and test ({shares}) cut by actor (seed {self.split_seed}): none in two splits"
        else:
            rule = (
                f"test is {self.test_list}; val ({self.val_fraction:g}) cut from {self.train_list} by actor, seed"
                f" {self.split_seed}; with the published lists every actor of test is in train or val too"
            )
        return {"split": self.split, "split_rule": rule}

    def clips(self) -> dict[Split, list[Clip]]:
        self.require_folder(self.root)
        seen: dict[str, str] = {}
        train, test = self._read(self.train_list, seen), self._read(self.test_list, seen)
        if self.split == "published":
            rest, val = self._by_actor(train, [self.val_fraction])
            return {"train": rest, "val": val, "test": test}
        rest, val, test = self._by_actor(train + test, [self.val_fraction, self.test_fraction])
        return {"train": rest, "val": val, "test": test}

    def _read(self, name: str, seen: dict[str, str]) -> list[Clip]:
        clips = []
        for number, (clip, label) in read_rows(self.root / name, ",", ("id", "LABEL")):
            where = f"{self.root / name}, line {number}"
            require_unique(seen, clip, where)
            actor = clip.split("_", 1)[0]
            if not actor.isdigit():
                raise UserError(
                    where,
                    f"id {clip!r}",
                    "<actor>_<sentence>_<emotion>_<level>, e.g. 1001_IEO_NEU_XX",
                    "restore the published line, e.g. 1001_IEO_NEU_XX,NEU",
                )
            y = label_of(label, EMOTIONS, where)
            clips.append(Clip(clip, y, f"AudioWAV/{clip}.wav", f"Image-01-FPS/{clip}", group=actor))
        return clips

    def _by_actor(self, clips: list[Clip], shares: list[float]) -> list[list[Clip]]:
        y, actors = np.array([c.label for c in clips]), np.array([c.group for c in clips])
        part = cut(y, shares, self.split_seed, str(self.root), actors)
        return [[clips[i] for i in np.flatnonzero(part == p)] for p in range(len(shares) + 1)]
