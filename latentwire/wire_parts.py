"""The parts of a wire by name: what `init` takes from other runs, and what `freeze` keeps as it is.

    encoder | codec | adapter.READER | injector.READER | lora.READER | head.OBJECTIVE

`injector.READER` is what the injector has beside its adapter. A kind alone (`freeze=[adapter]`) is all parts of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from suite.config.compose import nearest

INIT, FREEZE = "init", "freeze"
FIXED = ("encoder", "codec")  # by `wire.from_run`
STANDS_ON = ("wire.from_run", "wire.start_from")  # the other keys that name an earlier run


def known(cfg: DictConfig) -> list[str]:
    """Return the names of all parts that a run can have, `lora` where a reader is adapted."""
    readers, adapted, objectives = (list(map(str, cfg[key])) for key in ("lms", "adaptation", "objectives"))
    each = [f"{kind}.{name}" for kind in ("adapter", "injector") for name in readers]
    return [*FIXED, *each, *(f"lora.{name}" for name in adapted), *(f"head.{name}" for name in objectives)]


def taken(cfg: DictConfig) -> dict[str, Path]:
    """Return the run that each part is taken from, by the part's name; {} for a run without `init`."""
    node: Any = {} if cfg.get(INIT) is None else OmegaConf.to_container(cfg[INIT], resolve=True)
    found: dict[str, Path] = {}
    for kind, value in node.items():
        named = {f"{kind}.{name}": run for name, run in value.items()} if isinstance(value, dict) else {kind: value}
        found |= {part: Path(str(run)).expanduser() for part, run in named.items() if run is not None}
    return found


def frozen(cfg: DictConfig) -> list[str]:
    """Return the names of the parts that training leaves as they are, kinds replaced by their parts, each once."""
    asked = list(map(str, cfg.get(FREEZE) or []))
    return [part for part in known(cfg) if part in asked or part.partition(".")[0] in asked]


def earlier_runs(cfg: DictConfig) -> dict[str, Path]:
    """Return the directories of the runs that a run stands on, by the dotted key that names them."""
    named = {key: OmegaConf.select(cfg, key) for key in STANDS_ON}
    found = {key: Path(str(run)) for key, run in named.items() if run is not None}
    return found | {f"{INIT}.{part}": run for part, run in taken(cfg).items()}


def unknown_parts(cfg: DictConfig) -> Iterator[UserError]:
    """Yield what is wrong with the parts that `init` and `freeze` name."""
    parts, runs = known(cfg), taken(cfg)
    kinds = list(dict.fromkeys(part.partition(".")[0] for part in parts))
    asked = list(map(str, cfg.get(FREEZE) or []))
    for part, run in runs.items():
        if part not in parts:
            near = nearest(part, parts, 1) or parts[:1]
            yield UserError(f"{INIT}.{part}", "no such part", " | ".join(parts), f"set {INIT}.{near[0]}={run}")
    for part in asked:
        if part not in (*parts, *kinds):
            near = nearest(part, [*parts, *kinds], 1) or parts[:1]
            others = ",".join(dict.fromkeys(near[0] if name == part else name for name in asked))
            yield UserError(f"{FREEZE}: {part}", "no such part", " | ".join(parts), f"set {FREEZE}=[{others}]")
    still = [part for part in frozen(cfg) if part.startswith("injector.")]
    for n, stage in enumerate(cfg.stages):
        if still and stage.get("refit"):
            found, remedy = f"true, while {FREEZE} keeps {', '.join(still)}", f"set stages.{n}.refit=false"
            yield UserError(f"stages.{n}.refit with {FREEZE}", found, "an injector that may start anew", remedy)
    if cfg.wire.from_run is not None:
        for part in FIXED:
            for key, named in ((f"{INIT}.{part}", part in runs), (f"{FREEZE}: {part}", part in asked)):
                if named:
                    found = f"{part}, which is that of wire.from_run={cfg.wire.from_run} and fixed"
                    remedy = f"leave it out, or set wire.from_run=null {INIT}.{part}={cfg.wire.from_run}"
                    yield UserError(key, found, "a part that this run trains or makes itself", remedy)


def frozen_groups(cfg: DictConfig) -> set[str]:
    """Return the groups of parameters that `freeze` leaves without any, exactly (`adapter:READER`) and by kind."""
    parts, held = known(cfg), frozen(cfg)
    exact = {part.replace(".", ":", 1) for part in held}
    kinds = {part.partition(".")[0] for part in held}
    return exact | {kind for kind in kinds if all(p in held for p in parts if p.partition(".")[0] == kind)}


def told(provenance: Mapping[str, Mapping[str, str]]) -> str:
    """Say in one line which parts come from which runs."""
    return ", ".join(f"{part} of run {of['run']} ({of['sha256'][:12]}…)" for part, of in provenance.items())
