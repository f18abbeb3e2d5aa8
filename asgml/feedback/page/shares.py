"""What every branch leaves to what stands before it, measured once and kept beside the runs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from asgml.feedback import losses, measured, share
from asgml.feedback.branch_shares import LEAST, SYSTEMS, Row, measure
from asgml.feedback.data import generator
from asgml.feedback.model import adapters, clip, system
from asgml.feedback.page import scale
from asgml.feedback.page.scale import over_scale
from asgml.model import cross_attention
from asgml.model.fusion import cross_attention as fusion
from callbacks.files.atomic import write_text
from callbacks.stages import branch, gradient_share
from suite.statistics import Estimate

FILE = "feedback_shares.json"
#: by system, the factors on what is read: as initialised, and as far above the stream as starves where anything can
CONTEXTS = {"fusions": (1.0, 7.0), "clip": (1.0, 20.0), "clip_behind": (1.0, 20.0), "clip_mean": (1.0, 20.0)}
CODE = (
    losses,
    measured,
    share,
    generator,
    adapters,
    clip,
    system,
    scale,
    cross_attention,
    fusion,
    branch,
    gradient_share,
)


def measured_shares(
    folder: Path, seeds: int = LEAST, contexts: Mapping[str, Sequence[float]] = CONTEXTS
) -> tuple[dict[str, list[Row]], dict[str, list[tuple[float, Row]]]]:
    """Return the rows of every system, and those over the weight of a branch by line of the figure.

    What the file in the folder has, of the same seeds and the same source files, is not measured again.

    Args:
        folder: the folder of the file.
        seeds: the number of seeds, at least ten.
        contexts: by system, the factors on what is read.
    """
    kept = Kept(folder / FILE, range(seeds))
    rows = {
        name: [
            kept.of(f"{branch_name} × {context:g}", partial(measure, branch_name, context))
            for context in factors
            for branch_name in SYSTEMS[name]
        ]
        for name, factors in contexts.items()
    }
    lines = {
        name: [(w, kept.of(f"{name}, weight {w:g}", one)) for w, one in points] for name, points in over_scale().items()
    }
    return rows, lines


class Kept:
    """Keeps rows in a JSON file, as they are measured.

    Args:
        path: the file; one of other seeds or of other source files is written anew.
        seeds: the seeds.
    """

    def __init__(self, path: Path, seeds: Sequence[int]):
        digest = hashlib.sha256()
        for module in CODE:
            digest.update(Path(inspect.getfile(module)).read_bytes())
        self.path, self.seeds = path, seeds
        self.head = {"code": digest.hexdigest(), "seeds": list(seeds)}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        same = {key: found.get(key) for key in self.head} == self.head
        self.rows: dict[str, Any] = found["rows"] if same else {}

    def of(self, key: str, measure_it: Callable[[Sequence[int]], Row]) -> Row:
        """Return the row of a key, measured if it is not there."""
        if key not in self.rows:
            print(f"share: {key}", flush=True)
            self.rows[key] = asdict(measure_it(self.seeds))
            write_text(self.path, json.dumps({**self.head, "rows": self.rows}, indent=1))
        row = self.rows[key]
        return Row(**{**row, "share": Estimate(**row["share"])})
