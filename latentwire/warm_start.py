"""Parts of finished runs taken over one by one (`init.adapter.pocket_llama=RUN`), verified to the last tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from callbacks.errors import UserError
from callbacks.run.manifest import entry_of
from callbacks.run.stored import hash_of
from latentwire.checkpoints import checkpoint_path, load_part, part_of, read_checkpoint, read_config
from latentwire.lm.frozen import FrozenLM
from latentwire.wire_parts import FREEZE, INIT
from suite.runs.finished import require_finished
from suite.runs.provenance import CONFIG

SHOWN = 3
NO_PRIVATE = "leave wire.private out: that run has no private slots"
Provenance = dict[str, str]  # run, sha256


def prefix_of(part: str) -> tuple[str, str]:
    """Return the beginning of a part's names in a checkpoint, and that of those among them that belong to another."""
    kind, _, name = part.partition(".")
    inside = {"adapter": f"wire.injectors.{name}.adapter.", "injector": f"wire.injectors.{name}.",
              "lora": f"wire.lora.{name}.", "head": f"objectives.{name}."}.get(kind, f"wire.{kind}.")  # fmt: skip
    return inside, f"{inside}adapter." if kind == "injector" else ""


def digest_of(module: nn.Module, part: str) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of the tensors of a part.

    Args:
        module: the module that is the part, an injector's with its adapter.
        part: its name.
    """
    inner = "adapter." if part.startswith("injector.") else "\0"
    entries = {name: entry_of(t) for name, t in module.state_dict().items() if not name.startswith(inner)}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


class WarmStart:
    """Gives a wire's parts the best weights of finished runs, each checkpoint read once.

    Args:
        asked: the directory of the run that each part is taken from, by the part's name.
        lms: the models that read, by name.
        wire: the `wire` node of the run that takes them, which is compared with theirs where a part does not fit.
    """

    def __init__(self, asked: Mapping[str, Path], lms: Mapping[str, FrozenLM], wire: DictConfig):
        self.asked, self.lms, self.wire = dict(asked), lms, wire
        self.provenance: dict[str, Provenance] = {}
        self._read: dict[Path, tuple[DictConfig, dict[str, Any]]] = {}

    def kinds(self, kinds: Iterable[str]) -> list[str]:
        """Return the parts of these kinds that are taken."""
        return [part for part in self.asked if part.partition(".")[0] in kinds]

    def take(self, module: nn.Module, part: str) -> None:
        """Load a part's tensors into a module, in place.

        Args:
            module: the module that is the part, an injector's with its adapter.
            part: its name.

        Raises:
            UserError: no finished run of latentwire, a checkpoint of another run, one that is damaged, a run without
                this part or with one of other shapes, or a part that was made for another language model.
        """
        run_dir = self.asked[part]
        where = f"{INIT}.{part}={run_dir}"
        cfg, checkpoint = self._run(run_dir)
        inside, without = prefix_of(part)
        theirs = part_of(checkpoint, inside, without)
        inner = without.removeprefix(inside)
        mine = {k: v for k, v in module.state_dict().items() if not (inner and k.startswith(inner))}
        if not mine:
            expected = f"a part with weights or measured values; {type(module).__name__} has none"
            raise UserError(where, f"nothing to take: {part} is empty", expected, f"leave {INIT}.{part} out")
        if not theirs["state_dict"]:
            there = ", ".join(_parts_in(checkpoint["state_dict"]))
            remedy = f"leave {INIT}.{part} out, or give another run"
            raise UserError(where, f"a run without {part}; it has {there}", f"a run with {part}", remedy)
        self._same_model(where, part, checkpoint, mine)
        problems = _differing(mine, theirs["state_dict"])
        if problems:
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            found = f"another {part}: {'; '.join(problems[:SHOWN])}{more}"
            slots = int(checkpoint["latentwire"]["slots"])
            raise UserError(where, found, f"{part} as in {run_dir / CONFIG}", self._remedy(cfg, part, slots))
        load_part(module, theirs, where, inner)
        self.provenance[part] = {"run": self._name(run_dir, checkpoint), "sha256": digest_of(module, part)}

    def _run(self, run_dir: Path) -> tuple[DictConfig, dict[str, Any]]:
        if run_dir not in self._read:
            cfg = read_config(run_dir)
            result = require_finished(run_dir, "repeat its command: it goes on; then give this one again")
            checkpoint = read_checkpoint(run_dir)
            made_by, expected = hash_of(checkpoint), result.get("hash", run_dir.resolve().name)
            if made_by is not None and made_by != expected:
                found, remedy = f"a checkpoint of run {made_by}", "put back the run's own checkpoint"
                raise UserError(str(checkpoint_path(run_dir)), found, f"one of run {expected}", remedy)
            self._read[run_dir] = cfg, checkpoint
        return self._read[run_dir]

    def _same_model(self, where: str, part: str, checkpoint: Mapping[str, Any], names: Iterable[str]) -> None:
        kind, _, name = part.partition(".")
        within = {step for key in names for step in key.split(".")}  # a head may have weights for each reader
        for model in [m for m in self.lms if m in within] if kind == "head" else [m for m in self.lms if m == name]:
            then, now = checkpoint["latentwire"]["models"].get(model), self.lms[model].fingerprint()
            if then is not None and then != now:
                found = f"a part made for another model that was called {model} (fingerprint {then[:12]}…)"
                expected = f"one for {model} of this run ({now[:12]}…)"
                raise UserError(where, found, expected, f"leave {INIT}.{part} out, or read with that run's lms.{model}")

    def _remedy(self, cfg: DictConfig, part: str, slots: int) -> str:
        width, private = int(cfg.wire.d_z), {str(k): int(v) for k, v in cfg.wire.private.items()}
        if width != int(self.wire.d_z):
            return f"set wire.d_z={width}, or leave {INIT}.{part} out"
        if part == "encoder" and private != dict(self.wire.private):  # an encoder has weights for every slice
            named = ",".join(f"{k}:{v}" for k, v in private.items())
            return f"set ++wire.private={{{named}}}, or leave {INIT}.{part} out" if named else NO_PRIVATE
        kind = part.partition(".")[0]
        if kind == "head" and any(cfg.wire[key] != self.wire[key] for key in ("slots", "ratio")):
            return f"set wire.slots={slots}, or leave {INIT}.{part} out"  # its shape follows from tokens per slot
        node = {"head": "objectives", "lora": "adaptation"}.get(kind, kind)
        return f"set {node} as in that run's {CONFIG}, or leave {INIT}.{part} out"

    @staticmethod
    def _name(run_dir: Path, checkpoint: Mapping[str, Any]) -> str:
        return str(hash_of(checkpoint) or run_dir.resolve().name)


def freeze(module: nn.Module, part: str) -> None:
    """Take a part's parameters out of training, in place.

    Args:
        module: the module that is the part, an injector's with its adapter, which is left as it is.
        part: its name.

    Raises:
        UserError: a part without a tensor, which nothing could move.
    """
    inner = "adapter." if part.startswith("injector.") else "\0"
    kept = [(n, t) for n, t in module.named_parameters() if not n.startswith(inner)]
    if not kept and not any(True for _ in module.buffers()):
        expected = f"a part with weights or measured values; {type(module).__name__} has none"
        raise UserError(f"{FREEZE}: {part}", "nothing to freeze", expected, f"leave {part} out of {FREEZE}")
    for _, parameter in kept:
        parameter.requires_grad_(False)


def size_of(module: nn.Module, part: str) -> int:
    """Return the number of parameters of a part, trained or not; arguments as `digest_of`."""
    inner = "adapter." if part.startswith("injector.") else "\0"
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(inner))


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{k} is not in it" for k in mine if k not in theirs),
        *(f"{k} is not here" for k in theirs if k not in mine),
        *(
            f"{k} is {tuple(theirs[k].shape)} there, {tuple(v.shape)} here"
            for k, v in mine.items()
            if k in theirs and theirs[k].shape != v.shape
        ),
    ]


def _parts_in(names: Iterable[str]) -> list[str]:
    """Return the parts whose tensors have these names."""
    found = []
    for name in names:
        room, kind, *rest = name.split(".")
        if room == "objectives":
            found.append(f"head.{kind}")
        elif kind == "injectors":
            found.append(f"{'adapter' if rest[1] == 'adapter' else 'injector'}.{rest[0]}")
        else:
            found.append(f"{kind}.{rest[0]}" if kind == "lora" else kind)
    return list(dict.fromkeys(found))
