"""Rung 6: fewer bits and fewer latents until rung 5 no longer holds: the capacity curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentwire.baselines.budget import TokenBudget, WholePromptBudget
from latentwire.baselines.text import NoContext
from latentwire.codec import message
from latentwire.codec.integer import Integer
from latentwire.ladder import options
from latentwire.ladder.rung5_budget import STRICTLY, Margin, margins
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.lm.layout import Prefix
from latentwire.wire import LatentWire
from suite.runs.ledger import FILE_NAME, Ledger

GROUP = 32  # channels that share a scale, as many as divide d_z
OUTSIDE = ("seed", "label", "paths", "logger", "resume", "codec", "baselines", "acceptance", "evaluation")
SIZES = ("slots", "ratio", "d_z")  # of `wire`: what siblings may differ in


@dataclass(frozen=True)
class Requantised:
    """Sends the latents of a trained wire through another codec, which it was not trained with."""

    wire: LatentWire
    codec: Integer

    @property
    def slots(self) -> int:
        return self.wire.slots

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        values: Tensor = self.codec(self.wire.encode(texts)).values
        return values

    def prefix(self, values: Tensor, model: str) -> Prefix:
        return self.wire.prefix(values, model)

    def message_bytes(self) -> int:
        return message.message_bytes(self.codec, self.slots).total


def squeeze(subject: Subject, run_dir: Path, o: options.SqueezeOptions, passages: int) -> Verdict:
    """Measure the capacity curve; it fails only where not even the trained wire itself holds.

    M and d_z need training: their points are those of finished runs in the same ledger that differ in nothing else.

    Args:
        subject: the trained wire and what it reads.
        run_dir: directory of its run.
        o: what the rung does.
        passages: number of validation passages, as at rung 5.
    """
    curve = [_point("trained", subject, subject.wire, passages)]
    for bits in o.bits:
        group = max(g for g in range(1, GROUP + 1) if int(subject.cfg.wire.d_z) % g == 0)
        smaller = Requantised(subject.wire, Integer(int(subject.cfg.wire.d_z), bits, group).to(subject.device))
        if smaller.message_bytes() < subject.wire.message_bytes():
            curve.append(_point(f"int{bits} put on afterwards", subject, smaller, passages))
    curve += siblings(run_dir, subject)
    holding = [p for p in curve if p["holds"]]
    broken = [p for p in curve if p["holds"] is False]
    least = min((p["bytes"] for p in holding), default=float("nan"))
    said = f"holds down to {least:.0f} bytes" if holding else ""
    said += "" if broken else "; no point breaks it yet: train smaller ones (wire.ratio, wire.d_z, codec)"
    return judged(
        6,
        [
            Check("holds as trained", float(bool(curve[0]["holds"])), low=1.0, remedy="climb from rung 5 again"),
            Check("bytes of the smallest message that holds", least),
            Check("points", len(curve)),
        ],
        said,
        curve,
    )


def _point(label: str, subject: Subject, wire: Any, passages: int) -> dict[str, Any]:
    found: list[Margin] = margins(subject, wire, passages)
    worst = min(found, key=lambda m: m.f1)
    return {
        "label": label,
        "M": wire.slots,
        "d_z": int(subject.cfg.wire.d_z),
        "bytes": wire.message_bytes(),
        "f1": worst.f1,
        "f1_low": worst.f1_low,
        "f1_high": worst.f1_high,
        "holds": all(m.low >= STRICTLY for m in found),
    }


def siblings(run_dir: Path, subject: Subject) -> list[dict[str, Any]]:
    """Return points of finished runs of the same ledger with another M, d_z, codec or seed, as they were evaluated."""
    path = run_dir.parent.parent / FILE_NAME
    own = {NoContext.name, (WholePromptBudget if subject.whole else TokenBudget).name}
    points = []
    rows = {row["hash"]: row for row in Ledger(path).rows() if row.get("program") == "latentwire"}
    mine = rows.get(run_dir.name)
    for row in rows.values():
        wires = [m for m in (row.get("methods") or {}).values() if m["kind"] == "wire"]
        if mine is None or row is mine or row["status"] != "finished" or not wires or _rest(row) != _rest(mine):
            continue
        tests = [t for t in row["tests"] if t["wire"] == "wire" and t["against"] in own]
        worst = min(wires, key=lambda m: m["f1"])
        known = len(tests) == len(own) * len(wires)
        points.append(
            {
                "label": f"run {row['hash']} (seed {row['seed']})",
                "M": worst["M"],
                "d_z": int(row["config"]["wire"]["d_z"]),
                "bytes": worst["bytes"],
                "f1": worst["f1"],
                "f1_low": worst["f1_low"],
                "f1_high": worst["f1_high"],
                "holds": all(t["low"] >= STRICTLY for t in tests) if known else None,
            }
        )
    return sorted(points, key=lambda p: -p["bytes"])


def _rest(row: Mapping[str, Any]) -> str:
    """Return a configuration without what runs along the curve."""
    config = {k: v for k, v in row["config"].items() if k not in OUTSIDE}
    config["wire"] = {k: v for k, v in config["wire"].items() if k not in SIZES}
    return json.dumps(config, sort_keys=True)
