"""From a finished run to its wire, and to the two ends of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from callbacks.errors import UserError
from callbacks.run.inputs import refuse_other_inputs
from callbacks.run.stored import hash_of
from latentwire.build import Inputs, bare_wire, build_inputs
from latentwire.checkpoints import checkpoint_path, read_checkpoint, read_config, read_inputs, take_over
from latentwire.ends import Reader, Writer
from latentwire.wire import LatentWire
from latentwire.wire_parts import frozen
from suite.runs.identity import fingerprints
from suite.runs.inputs import given_files
from suite.runs.provenance import read_result


@dataclass
class Loaded:
    """Holds a finished run's wire, in evaluation mode, with what it reads.

    Attributes:
        cfg: the run's configuration.
        inputs: its models and data.
        wire: the wire.
        hash: the run's hash, as the checkpoint has it; None for one that does not say.
        identity: the wire's fingerprint.
    """

    cfg: DictConfig
    inputs: Inputs
    wire: LatentWire
    hash: str | None
    identity: bytes

    def writer(self) -> Writer:
        """Return the end that writes."""
        w = self.wire
        return Writer(w.encoder, w.codec, w.layout, self.identity, w.whole_prompt)

    def reader(self, model: str) -> Reader:
        """Return the end that reads with one of the run's models. Raises UserError for a model that is none of them."""
        w = self.wire
        if model not in w.models:
            readers = " | ".join(w.models)
            raise UserError(f"--model {model}", "no reader of this run", readers, f"set --model {w.models[0]}")
        new = int(self.cfg.evaluation.max_new_tokens)
        lm, injector = self.inputs.lms[model], w.injectors[model]
        return Reader(model, lm, w.codec, injector, w.layout, self.identity, w.whole_prompt, new)


def load(run_dir: Path, which: str = "best") -> Loaded:
    """Rebuild the wire of a run from its configuration and a checkpoint; what was measured in training is in it.

    Args:
        run_dir: directory of the run.
        which: `best` or `last`.

    Raises:
        UserError: no such run or checkpoint, one of another run, data or language models that are not those of the run,
            or a checkpoint that does not hold all that was trained.
    """
    checkpoint, where = read_checkpoint(run_dir, which), str(checkpoint_path(run_dir, which))
    cfg, result = read_config(run_dir), read_result(run_dir)
    made_by, expected = hash_of(checkpoint), result.get("hash", run_dir.resolve().name)
    if made_by is not None and made_by != expected:
        found, remedy = f"a checkpoint of run {made_by}", "put back the run's own checkpoint"
        raise UserError(where, found, f"one of run {expected}", remedy)
    refuse_other_inputs(
        read_inputs(checkpoint),
        fingerprints(cfg, given_files(cfg)),
        where,
        "put back the files as they were, or repeat the run's command: it is another run on these files",
    )
    inputs = build_inputs(cfg)
    for name, lm in inputs.lms.items():
        lm.verify(checkpoint["latentwire"]["models"][name])
    wire = bare_wire(cfg, inputs.lms, inputs.encoder_lm, int(checkpoint["latentwire"]["slots"]), None)
    if cfg.wire.from_run is not None:
        wire.fix()
    wire.freeze(*(name for name in frozen(cfg) if not name.startswith("head.")))
    take_over(wire, checkpoint, "wire.", where)
    for lm in inputs.lms.values():
        lm.measure(inputs.texts)
    identity = wire.eval().identity()
    told = result.get("identity")
    if which == "best" and told is not None and told != identity.hex():
        raise UserError(
            where,
            f"a wire of identity {identity.hex()[:16]}…",
            f"{told[:16]}…, the identity that the run recorded when it ended",
            "put back the run's own checkpoint, or repeat its command with resume=never",
        )
    return Loaded(cfg, inputs, wire, made_by, identity)
