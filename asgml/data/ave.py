"""AVE (Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018): 28 events, 4143 clips."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from asgml.data.media_source import Clip, MediaSource, label_of, read_rows
from asgml.data.ranges import Pixels, Seconds
from asgml.data.spec import SPLITS, Split
from callbacks.errors import UserError

log = logging.getLogger(__name__)

# In the order of the authors' feature files; label i is EVENTS[i].
EVENTS = [
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
]
COLUMNS = ("Category", "VideoID", "Quality", "Start", "End")


@dataclass
class Ave(MediaSource):
    """Reads AVE with its published splits (3339 / 402 / 402), in the layout `LAYOUT`.

    The defaults `Audios` and `Image-01-FPS` are what the public audio-visual repositories extract from `AVE/*.mp4`. A
    video may hold several events, hence the ids `<VideoID>_<Start>_<End>_<label>`.

    Args:
        segment: whether to use only Start..End of sound and frames, as the published `-SE` variants do; false where
            the files are cut already (`Image-01-FPS-SE`). An event of no length is taken as the whole clip.
        audio_dir: the folder of the sounds under `path`.
        frame_dir: the folder of the frames under `path`.

    The other arguments are those of `MediaSource`; `seconds` is the length to which the sound is tiled or cut.
    """

    NAME: ClassVar[str] = "AVE"
    EXPERIMENT: ClassVar[str] = "ave"
    LAYOUT: ClassVar[str] = """\
trainSet.txt, valSet.txt, testSet.txt  `Category&VideoID&Quality&Start&End`
Annotations.txt                        all events, same columns; if there, the lists are compared with it
<audio_dir>/<VideoID>.wav              sound of the 10 s clip
<frame_dir>/<VideoID>/00000.jpg …      one frame per second"""
    OBTAIN: ClassVar[str] = (
        "get AVE_Dataset.zip from github.com/YapengTian/AVE-ECCV18 and extract from AVE/*.mp4 the sound to"
        " <audio_dir>/<VideoID>.wav and one frame per second to <frame_dir>/<VideoID>/00000.jpg"
    )
    GROUPED_BY: ClassVar[str | None] = "video"

    seconds: Seconds = 10.0
    store: list[Pixels] = field(default_factory=lambda: [256, 340])
    segment: bool = True
    audio_dir: str = "Audios"
    frame_dir: str = "Image-01-FPS"

    @property
    def class_names(self) -> list[str]:
        return list(EVENTS)

    @property
    def folders(self) -> tuple[str, str]:
        return self.audio_dir, self.frame_dir

    @property
    def list_files(self) -> dict[str, Path]:
        return {name: self.root / name for name in (f"{split}Set.txt" for split in SPLITS)}

    def facts(self) -> dict[str, Any]:
        return {"split": "published", "split_rule": "trainSet.txt, valSet.txt and testSet.txt as published"}

    def clips(self) -> dict[Split, list[Clip]]:
        self.require_folder(self.root)
        splits = {split: self._read(self.root / f"{split}Set.txt") for split in SPLITS}
        annotations = self.root / "Annotations.txt"
        if annotations.exists():
            known = {(label_of(f[0], EVENTS, f"{annotations}, line {n}"), f[1]) for n, f in self._rows(annotations)}
            extra = [c.id for clips in splits.values() for c in clips if (c.label, c.group) not in known]
            if extra:
                log.warning("AVE: %d listed events are not in %s, first %s", len(extra), annotations, extra[0])
        return splits

    def remarks_of(self, clips: Sequence[Clip]) -> list[str]:
        whole = [clip.id for clip in clips if self.segment and clip.end is None]
        told = f"{len(whole)} of {len(clips)} events have no length (first: {whole[0]})" if whole else ""
        return [f"{told}: the whole clip is used"] if told else []

    def _rows(self, path: Path) -> list[tuple[int, list[str]]]:
        rows = read_rows(path, "&", COLUMNS)
        return rows[1:] if rows[0][1][:2] == ["Category", "VideoID"] else rows  # Annotations.txt has a header line

    def _read(self, path: Path) -> list[Clip]:
        clips: list[Clip] = []
        used: dict[str, int] = {}
        for number, (event, video, _, start, end) in self._rows(path):
            where = f"{path}, line {number}"
            label = label_of(event, EVENTS, where)
            first, last = _interval(start, end, where)
            part = (first, last) if self.segment and last > first else (0.0, None)
            name = f"{video}_{first:g}_{last:g}_{label}"
            used[name] = used.get(name, 0) + 1
            name += f"_{used[name]}" if used[name] > 1 else ""
            clips.append(Clip(name, label, f"{self.audio_dir}/{video}.wav", f"{self.frame_dir}/{video}", video, *part))
        return clips


def _interval(start: str, end: str, where: str) -> tuple[float, float]:
    """Return beginning and end of an event in seconds; refuse what is no stretch of time."""
    try:
        first, last = float(start), float(end)
    except ValueError:
        first = last = math.nan
    if not 0 <= first <= last < math.inf:  # false of NaN
        raise UserError(
            where,
            f"Start {start!r}, End {end!r}",
            "two finite numbers of seconds from 0, End not before Start",
            "restore the published line, e.g. Church bell&RUhOCu3LNXM&good&0&10",
        )
    return first, last
