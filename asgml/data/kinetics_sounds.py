"""Kinetics-Sounds (Arandjelović and Zisserman, "Look, Listen and Learn", ICCV 2017): 31 classes of Kinetics-400."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from asgml.data.media_source import Clip, MediaSource, label_of, read_rows, require_unique
from asgml.data.ranges import Pixels, Seconds
from asgml.data.spec import Split
from asgml.data.splits import cut
from callbacks.errors import UserError
from callbacks.ranges import OpenShare, Seed

CLASSES = 31
# YouTube ids have 11 characters of A-Z a-z 0-9 - _; the train list adds _<start>_<end>, the test list _<start>.
CLIP_ID = re.compile(r"([A-Za-z0-9_-]{11})_(\d+)(?:_(\d+))?")


@dataclass
class KineticsSounds(MediaSource):
    """Reads Kinetics-Sounds with the lists published by OGM-GE (14 799 train, 2 597 test), in the layout `LAYOUT`.

    There, <clip> is the first column of a list as it stands. The lists name classes by number only.

    Args:
        val_fraction: the share of the train list, stratified by class, that becomes validation: none is published.
        split_seed: the seed of that cut.
        train_list: the file name of the train list under `path`.
        test_list: the file name of the test list under `path`.
        audio_dir: the folder of the sounds under `path`; `{split}` stands for train or test, the list a clip is in.
        frame_dir: the folder of the frames under `path`; `{split}` as in `audio_dir`.

    The other arguments are those of `MediaSource`; `seconds` is the length to which the sound is tiled or cut.
    """

    NAME: ClassVar[str] = "Kinetics-Sounds"
    EXPERIMENT: ClassVar[str] = "kinetics_sounds"
    LAYOUT: ClassVar[str] = """\
my_train.txt   <youtube id>_<start>_<end>,10,<class 0..30>     start and end with six digits
my_test.txt    <youtube id>_<start>,10,<class 0..30>
train_wav/<clip>.wav    test_wav/<clip>.wav
train_img/Image-01-FPS/<clip>/00000.jpg …    test_img/Image-01-FPS/<clip>/00000.jpg …"""
    OBTAIN: ClassVar[str] = (
        "get the clips of both lists from Kinetics-400 (github.com/cvdfoundation/kinetics-dataset) and extract"
        " sound to {split}_wav/<clip>.wav and one frame per second to {split}_img/Image-01-FPS/<clip>/00000.jpg"
    )

    seconds: Seconds = 10.0
    store: list[Pixels] = field(default_factory=lambda: [256, 340])
    val_fraction: OpenShare = 0.1
    split_seed: Seed = 0
    train_list: str = "my_train.txt"
    test_list: str = "my_test.txt"
    audio_dir: str = "{split}_wav"
    frame_dir: str = "{split}_img/Image-01-FPS"

    @property
    def class_names(self) -> list[str]:
        return [str(i) for i in range(CLASSES)]

    @property
    def folders(self) -> tuple[str, str]:
        return self.audio_dir.replace("{split}", "test"), self.frame_dir.replace("{split}", "test")

    @property
    def list_files(self) -> dict[str, Path]:
        return {name: self.root / name for name in (self.train_list, self.test_list)}

    def facts(self) -> dict[str, Any]:
        rule = (
            f"test is {self.test_list}; val ({self.val_fraction:g}) cut from {self.train_list} within each class,"
            f" seed {self.split_seed}"
        )
        return {"split": "published", "split_rule": rule}

    def clips(self) -> dict[Split, list[Clip]]:
        self.require_folder(self.root)
        seen: dict[str, str] = {}
        train = self._read(self.root / self.train_list, "train", seen)
        test = self._read(self.root / self.test_list, "test", seen)
        y = np.array([clip.label for clip in train])
        part = cut(y, [self.val_fraction], self.split_seed, str(self.root / self.train_list))
        return {
            "train": [clip for clip, p in zip(train, part) if p == 0],
            "val": [clip for clip, p in zip(train, part) if p == 1],
            "test": test,
        }

    def _read(self, path: Path, split: str, seen: dict[str, str]) -> list[Clip]:
        clips = []
        audio, frames = self.audio_dir.replace("{split}", split), self.frame_dir.replace("{split}", split)
        for number, (clip, _, label) in read_rows(path, ",", ("clip", "seconds", "class")):
            where = f"{path}, line {number}"
            match = CLIP_ID.fullmatch(clip)
            if match is None:
                raise UserError(
                    where,
                    clip,
                    "<11-character youtube id>_<start> or …_<start>_<end>",
                    "restore the published line, e.g. -3Mwkq-7TV4_2,10,23",
                )
            require_unique(seen, match[1], where)  # by video: the same video in train and test would be a leak
            y = label_of(label, self.class_names, where)
            clips.append(Clip(clip, y, f"{audio}/{clip}.wav", f"{frames}/{clip}", match[1]))
        return clips
