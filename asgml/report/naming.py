"""How runs of asgml are told: the labels of their configurations, their modalities and groups, one colour for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from asgml.rhythm.config import Asgml, dead_keys
from suite.report.figures import INK, PALETTE, colours
from suite.report.frames import RunFrames, Value
from suite.report.labels import Labels

RHYTHM = "asgml.rhythm.Asgml"


def idle(config: Mapping[str, Any]) -> set[str]:
    """Return the dotted keys of a resolved config that its mode does not read, the boost's switch among them if off.

    Keys that the config of an earlier version does not have count as their defaults.
    """
    node = config.get("asgml")
    if not isinstance(node, Mapping) or node.get("_target_") != RHYTHM:
        return set()
    whole = asdict(Asgml())
    for key, value in node.items():
        whole[key] = {**whole[key], **value} if key in ("adaptive", "boost") else value
    off = set() if whole["boost"]["enabled"] else {"asgml.boost.enabled"}
    plain = {"asgml.control"} if whole["mode"] in ("sync", "boost") else set()
    return {*dead_keys(whole), *off, *plain}


LABELS = Labels(
    # a delay or period of an asynchronous mode is told even where it is 0 or 1
    neutral={"method=joint": "", "mode=sync": "", "method=none": "", "tau=0": "mode=sync", "k=1": "mode=sync"},
    baseline="joint",
    plurals={"methods": "method"},
    idle=idle,
)
GROUPED = ("grad_norm/", "grad_share/", "delta/", "update_ratio/")  # series of parameter groups
COLOURS = {"audio": PALETTE[0], "visual": PALETTE[1], "text": PALETTE[2], "fusion": INK, "fused": INK}


def metric(split: str, name: str = "accuracy") -> Value:
    """Return the reader of a metric of a split."""
    return lambda run: run.metric(split, name)


def tints(names: Iterable[str]) -> dict[str, str]:
    """Return the colour of each modality or group, the same in all figures."""
    return colours(names, COLOURS)


def modalities(frames: RunFrames) -> list[str]:
    """Return the names seen in metrics, heads, probes or the timeline, sorted."""
    found: set[str] = set()
    for run in frames.runs:
        for split in ("val", "test", "val_best", "test_best"):
            for prefix in ("accuracy/", "mae/"):
                found |= {k.removeprefix(prefix) for k in run.result.get(split) or {} if k.startswith(prefix)}
        for prefix in ("val/accuracy/", "val/mae/", "probe/accuracy/", "train/accuracy/", "cosine/"):
            found |= {k.removeprefix(prefix) for k in run.series if k.startswith(prefix)}
        if not found and run.timeline is not None:
            found |= set(run.timeline["modality"])
    return sorted(found)


def groups(frames: RunFrames) -> list[str]:
    """Return the parameter groups: the modalities, then the others (fusion)."""
    found = {k.partition("/")[2] for run in frames.runs for k in run.series if k.startswith(GROUPED)}
    own = modalities(frames)
    return [m for m in own if m in found] + sorted(found - set(own))
