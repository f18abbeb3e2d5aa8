"""From a finished run to its wire."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from callbacks.run.inputs import refuse_other_inputs
from latentwire.build import Inputs, build_inputs, build_wire
from latentwire.checkpoints import read_checkpoint, read_config, read_inputs, take_over
from latentwire.wire import LatentWire
from suite.runs.identity import fingerprints
from suite.runs.inputs import given_files


@dataclass
class Loaded:
    """Holds a finished run's wire, in evaluation mode, with what it reads."""

    cfg: DictConfig
    inputs: Inputs
    wire: LatentWire


def load(run_dir: Path, which: str = "best") -> Loaded:
    """Rebuild the wire of a run from its configuration and a checkpoint, every trained tensor verified.

    Args:
        run_dir: directory of the run.
        which: `best` or `last`.

    Raises:
        UserError: no such run or checkpoint, data or language models that are not those of the run, or a checkpoint
            that does not hold all that was trained.
    """
    checkpoint = read_checkpoint(run_dir, which)
    cfg = read_config(run_dir)
    refuse_other_inputs(
        read_inputs(checkpoint),
        fingerprints(cfg, given_files(cfg)),
        str(run_dir / "checkpoints" / f"{which}.ckpt"),
        "put back the files as they were, or repeat the run's command: it is another run on these files",
    )
    inputs = build_inputs(cfg)
    for name, lm in inputs.lms.items():
        lm.verify(checkpoint["latentwire"]["models"][name])
    wire = build_wire(cfg, inputs)
    take_over(wire, checkpoint, "wire.", str(run_dir / "checkpoints" / f"{which}.ckpt"))
    return Loaded(cfg, inputs, wire.eval())
