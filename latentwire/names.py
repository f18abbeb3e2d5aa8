"""Names in mappings of the configuration that nobody in a run answers to."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from latentwire.train.stages_check import unknown_groups
from latentwire.wire_parts import unknown_parts
from suite.config.compose import merge_errors, nearest

BY_READER = ("adaptation", "placement.devices", "wire.private")  # mappings whose keys are names of readers


def strangers(cfg: DictConfig) -> Iterator[UserError]:
    """Yield what is wrong with the names of readers, parts of the wire and groups of parameters.

    Slots of a wire of an earlier run (`wire.from_run`) may be for that run's readers.
    """
    names = [str(name) for name in cfg.lms]
    if not names:
        yield UserError("lms", "no language model", "at least one that reads", "set readers=pocket_llama")
        return
    for key in BY_READER:
        if key == "wire.private" and cfg.wire.from_run is not None:
            continue
        for name in map(str, OmegaConf.select(cfg, key) or {}):
            if name not in names:
                near = nearest(name, names, 1) or names[:1]
                remedy = f"write {key}.{near[0]} in its place"
                yield UserError(f"{key}.{name}", "no such reader", " | ".join(names), remedy)
    yield from unknown_parts(cfg)
    yield from unknown_groups("group_lr", list(map(str, cfg.group_lr)), names, list(map(str, cfg.objectives)))


def refuse_strangers(cfg: DictConfig) -> None:
    """Raise one UserError with all such names, if there are any."""
    if problems := list(strangers(cfg)):
        raise merge_errors(problems, "names")
