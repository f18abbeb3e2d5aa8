"""A warm start: training begins from weights of a finished run (`+init.weights=RUN`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from asgml.data.preprocessing import FILE, Preprocessing
from asgml.data.seen import Seen
from asgml.data.spec import DataSpec
from asgml.model.net import MultimodalNet
from asgml.restore import AGAIN, config_of
from callbacks.errors import UserError
from callbacks.run.stored import read_checkpoint
from suite.runs.finished import require_finished, stored_checkpoint
from suite.runs.provenance import read_result
from suite.runs.written import refuse_other_file

PARTS = ("encoders", "heads", "fusion")
KEY = "init.weights"


def warm_start(net: MultimodalNet, run_dir: Path, parts: Sequence[str], spec: DataSpec) -> None:
    """Give a network the best weights of a finished run, in place.

    Args:
        net: the network.
        run_dir: the directory of the run.
        parts: which of `PARTS` are taken; the others keep their initial weights.
        spec: the data of the new run.

    Raises:
        UserError: no finished run, classes of other names or in another order, or tensors that are not in both
            networks with one shape.
    """
    where = f"{KEY}={run_dir}"
    config_of(run_dir)
    result = require_finished(run_dir, "repeat its command: it goes on")
    theirs_classes = result.get("classes")
    if theirs_classes is not None and set(parts) & {"heads", "fusion"} and list(theirs_classes) != spec.classes:
        found = f"classes {_shown(theirs_classes)}"
        raise UserError(where, found, f"those of these data: {_shown(spec.classes)}", "add +init.parts=[encoders]")
    saved = read_checkpoint(stored_checkpoint(run_dir, "best"), AGAIN, result.get("hash"))["state_dict"]
    prefixes = tuple(f"{part}." for part in parts)
    theirs = {k.removeprefix("net."): v for k, v in saved.items() if k.removeprefix("net.").startswith(prefixes)}
    mine = {k: v for k, v in net.state_dict().items() if k.startswith(prefixes)}
    problems = [f"{k} is not in it" for k in mine if k not in theirs]
    problems += [f"{k} is not in this network" for k in theirs if k not in mine]
    problems += [
        f"{k} is {tuple(theirs[k].shape)} there, {tuple(v.shape)} here"
        for k, v in mine.items()
        if k in theirs and theirs[k].shape != v.shape
    ]
    if problems:
        rest = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            where,
            "; ".join(problems[:3]) + rest,
            f"{', '.join(parts)} of the same names and shapes",
            "set model and fusion as they were in that run, or take fewer parts: +init.parts=[encoders]",
        )
    net.load_state_dict(theirs, strict=False)


def seen_before(cfg: DictConfig) -> list[Seen | None]:
    """Return what the run that training starts from has seen itself; an empty list where it starts from no run."""
    if cfg.get("init") is None:
        return []
    run_dir = Path(str(cfg.init.weights)).expanduser()
    refuse_other_file(run_dir / FILE, read_result(run_dir), AGAIN)
    return [Preprocessing.read(run_dir / FILE, AGAIN).seen if (run_dir / FILE).is_file() else None]


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(list(classes)[:8]) + (", …" if len(classes) > 8 else "") or "none"
