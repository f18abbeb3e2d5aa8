"""A miniature CREMA-D that renders itself: real wav and jpg files in CREMA-D's layout, with a known ceiling."""

from __future__ import annotations

import csv
import errno
import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from asgml.data.counter_rng import integers, sample_keys, shuffled, uniform
from asgml.data.cremad import EMOTIONS, CremaD
from asgml.data.cremad_mini_render import Actor, draw_actor, render_face, render_voice
from asgml.data.ranges import Bands, Pixels, SampleRate, Seconds
from asgml.data.shards import bar, fingerprint
from asgml.data.spec import DataSpec, Split, Table
from callbacks.errors import UserError
from callbacks.files.atomic import write_bytes
from callbacks.ranges import MANY, Bounds, Count, OpenShare, PositiveShare, Seed, Share

RENDERER = 1  # raise when the same parameters give other files
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
LEVELS = ("XX", "LO", "MD", "HI")
# Who is mistaken for whom when the other class comes from a fixed partner: voices of like arousal, faces alike in
# part. No two classes are partners in both, so the two modalities together always tell.
PARTNERS = {"audio": (2, 5, 0, 4, 3, 1), "visual": (4, 3, 5, 1, 0, 2)}


def confusion(kind: str, modality: str, rate: float) -> np.ndarray:
    """Return P(rendered cue | label) as (C, C), rows summing to 1; the label's own cue has probability 1 - rate."""
    c = len(EMOTIONS)
    if kind == "uniform":
        return np.full((c, c), rate / (c - 1)) + (1 - rate - rate / (c - 1)) * np.eye(c)
    out = (1 - rate) * np.eye(c)
    out[np.arange(c), list(PARTNERS[modality])] = rate
    return out


def ceilings(tables: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the best possible accuracy from each modality's cue, and from all cues together (`fused`).

    Labels are equally likely, and cues are drawn independently given the label, so with K_m = `tables[m]`

        unimodal: sum_c max_y K_m[y, c] / C
        fused:    sum over cue tuples of max_y prod_m K_m[y, c_m] / C

    With the confusions `uniform` (rates a and b) the fused sum is max(1 - a, 1 - b): two equally good witnesses who
    contradict each other leave a tie, so a second modality adds nothing to a perfect first one.
    """
    joint: np.ndarray | None = None
    out: dict[str, float] = {}
    for modality, table in tables.items():
        out[modality] = float(table.max(axis=0).sum() / len(table))
        joint = table if joint is None else (joint[:, :, None] * table[:, None, :]).reshape(len(table), -1)
    assert joint is not None
    out["fused"] = float(joint.max(axis=0).sum() / len(joint))
    return out


Actors = Annotated[int, Bounds("a whole number from 3 to a billion, one per split", ge=3, le=MANY)]
Ambiguity = Annotated[float, Bounds("a rate of 0 or more, below 0.5", ge=0, lt=0.5)]


@dataclass(frozen=True)
class Take:
    """One clip to render.

    Attributes:
        id: the clip's name, as CREMA-D's.
        actor: the number of the actor, from 0.
        label: the index of the emotion.
        cues: the index of the emotion that each modality shows.
    """

    id: str
    actor: int
    label: int
    cues: dict[str, int]


@dataclass
class CremadMini(CremaD):
    """Renders a miniature CREMA-D at first use, and reads it with CREMA-D's own loader, decoder and preparation.

    `spec().notes["ceiling"]` has the exact ceilings of a reader who recognises every cue.

    Args:
        path: the folder of the renderings; each set of parameters has its own subfolder.
        samples: the number of clips, the six emotions equally often.
        actors: the number of speakers, each with a voice and a face.
        dominance: how much easier the voice is than the face, 0 to 1. It moves cue strength against nuisance: the
            voice's from 0.45 to 1, the face's from 1 to 0.7, and the clutter around the face from 0 to 1.
        ambiguity: the share of clips, per modality, that show the cue of another class.
        confusion: which other class: `uniform`, any of the five; `complementary`, a fixed partner that differs between
            voice and face. The ceiling is 1 - ambiguity per modality either way; fused it is the better of the two for
            `uniform` and 1 for `complementary`, where using both modalities pays.
        seed: the seed of the rendering.

    The other arguments are those of `CremaD` and `MediaSource`, with defaults for a small CPU: 1 s of 8 kHz sound as
    32 mel × 98 frames, one 32 × 32 image.
    """

    NAME: ClassVar[str] = "CREMA-D mini"
    EXPERIMENT: ClassVar[str] = "cremad_mini"
    OBTAIN: ClassVar[str] = "delete the folder, it is rendered again"
    DOMINANT: ClassVar[str | None] = "audio"

    audio: Literal["ogm", "fbank"] = "fbank"
    sample_rate: SampleRate | None = 8000
    seconds: Seconds = 1.0
    mels: Bands = 32
    size: Pixels = 32
    store: list[Pixels] = field(default_factory=lambda: [40, 40])
    crop_scale: list[PositiveShare] = field(default_factory=lambda: [0.8, 1.0])
    split: Literal["published", "speaker_disjoint"] = "speaker_disjoint"
    val_fraction: OpenShare = 0.15
    test_fraction: OpenShare = 0.25
    samples: Count = 1200
    actors: Actors = 24
    dominance: Share = 0.8
    ambiguity: dict[str, Ambiguity] = field(default_factory=lambda: {"audio": 0.1, "visual": 0.1})
    confusion: Literal["uniform", "complementary"] = "complementary"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ambiguity = {"audio": 0.0, "visual": 0.0, **dict(self.ambiguity)}
        least, most = 6 * self.actors, self.actors * len(SENTENCES) * len(LEVELS) * len(EMOTIONS)
        enough = least <= self.samples <= most
        rates = "{audio:0.1,visual:0.1}"
        self.require("actors", self.actors >= 3, "3 or more, one per split", "24")
        self.require("samples", enough, f"{least} to {most} for {self.actors} actors", str(50 * self.actors))
        self.require("dominance", 0 <= self.dominance <= 1, "0 to 1", "0.8")
        self.require("confusion", self.confusion in ("uniform", "complementary"), "uniform or complementary", "uniform")
        self.require("ambiguity", set(self.ambiguity) == {"audio", "visual"}, "rates for audio and visual", rates)
        # Beyond, the label would no longer be the likeliest reading of its cue.
        small = all(0 <= a < 0.5 for a in self.ambiguity.values())
        self.require("ambiguity", small, "rates of 0 to below 0.5", rates)

    @property
    def root(self) -> Path:
        return Path(self.path) / f"render-{fingerprint(self._rendering)}"

    @property
    def _rendering(self) -> dict[str, Any]:
        keys = ("samples", "actors", "dominance", "ambiguity", "confusion", "seed", "seconds", "store")
        return {"renderer": RENDERER, "rate": self.profile.sample_rate, **{k: getattr(self, k) for k in keys}}

    def facts(self) -> dict[str, Any]:
        tables = {m: confusion(self.confusion, m, rate) for m, rate in self.ambiguity.items()}
        return {**super().facts(), "ceiling": ceilings(tables), "dominance": self.dominance}

    @classmethod
    def input_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return nothing: all files follow from the parameters."""
        return {}

    @classmethod
    def derived_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path]:
        lists = {f"path/{name}": path for name, path in cls(**arguments).list_files.items()}
        return {**lists, **super().derived_files(arguments)}

    def takes(self) -> list[Take]:
        """Return all clips, in rendering order; they follow from the parameters alone."""
        n, c = self.samples, len(EMOTIONS)
        index = np.arange(n)
        keys = sample_keys(self.seed, np.zeros(n, np.uint64), index)
        actor, turn = index % self.actors, index // self.actors
        label = (turn + actor) % c
        cues = {}
        for modality, rate in self.ambiguity.items():
            if self.confusion == "uniform":
                other = (label + integers(keys, f"other {modality}", 1, c)) % c
            else:
                other = np.array(PARTNERS[modality])[label]
            cues[modality] = np.where(uniform(keys, f"ambiguous {modality}") < rate, other, label)
        takes = []
        for i in range(n):
            a, y, nth = int(actor[i]), int(label[i]), int(turn[i]) // c
            sentence, level = SENTENCES[nth % len(SENTENCES)], LEVELS[nth // len(SENTENCES)]
            name = f"{1001 + a}_{sentence}_{EMOTIONS[y]}_{level}"
            takes.append(Take(name, a, y, {m: int(cue[i]) for m, cue in cues.items()}))
        return takes

    # -- rendering ----------------------------------------------------------------------------------------------

    def prepare(self, workers: int = 1) -> None:
        self.render()
        super().prepare(workers)

    def tables(self) -> dict[Split, Table]:
        self.render()
        return super().tables()

    def new_samples(self, known: DataSpec, labelled: bool) -> Table:
        """Return the rendered clips of the test list; without labels, the given ones in CREMA-D's layout at `path`."""
        if labelled:
            self.render()
            return super().new_samples(known, labelled)
        return CremaD(**{f.name: getattr(self, f.name) for f in fields(CremaD)}).new_samples(known, labelled)

    def render(self) -> None:
        """Write the files that are not there yet; lists come last, so their presence means that all is there."""
        root = self.root
        if (root / self.train_list).exists() and (root / self.test_list).exists():
            return
        takes = self.takes()
        actors = [draw_actor(self.seed, a) for a in range(self.actors)]
        try:
            (root / "AudioWAV").mkdir(parents=True, exist_ok=True)
            with bar(f"{self.NAME}: rendering") as progress:
                progress.update(progress.task_ids[0], total=len(takes))
                for i, take in enumerate(takes):
                    self._render_one(root, i, take, actors[take.actor])
                    progress.advance(progress.task_ids[0])
            self._write_lists(root, takes, actors)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise UserError(
                str(root),
                str(error),
                f"a folder that can be written and holds about {len(takes) * 20} kB",
                "free some space, or set data.path=FOLDER to another; what is rendered stays, and the same command"
                " continues there",
            ) from error

    def _render_one(self, root: Path, index: int, take: Take, actor: Actor) -> None:
        sound, picture = root / f"AudioWAV/{take.id}.wav", root / f"Image-01-FPS/{take.id}/00000.jpg"
        rate = self.profile.sample_rate
        if not sound.exists():
            rng = np.random.default_rng([self.seed, 2, index])
            strength = 0.45 + 0.55 * self.dominance
            wave_form = render_voice(actor, take.cues["audio"], strength, rate, self.seconds, rng)
            write_bytes(sound, _wav(wave_form, rate))
        if not picture.exists():
            rng = np.random.default_rng([self.seed, 3, index])
            strength = 1 - 0.3 * self.dominance
            picture.parent.mkdir(parents=True, exist_ok=True)
            height, width = self.store
            write_bytes(picture, render_face(actor, take.cues["visual"], strength, height, width, self.dominance, rng))

    def _write_lists(self, root: Path, takes: list[Take], actors: list[Actor]) -> None:
        """Write lists as published: every actor in both, a tenth of the clips in test.csv."""
        test = set(shuffled(len(takes), self.seed, "test list")[: len(takes) // 10].tolist())
        truth = [[t.id, EMOTIONS[t.label], *(EMOTIONS[t.cues[m]] for m in self.ambiguity)] for t in takes]
        people = [[1001 + i, a.age, "Female" if a.female else "Male"] for i, a in enumerate(actors)]
        write_bytes(root / "cues.csv", _table([["id", "label", *self.ambiguity], *truth]))
        write_bytes(root / "VideoDemographics.csv", _table([["ActorID", "Age", "Sex"], *people]))
        rows = [[t.id, EMOTIONS[t.label]] for t in takes]
        write_bytes(root / self.test_list, _table([rows[i] for i in range(len(rows)) if i in test]))
        write_bytes(root / self.train_list, _table([rows[i] for i in range(len(rows)) if i not in test]))


def _wav(samples: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def _table(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()
