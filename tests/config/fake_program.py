"""A program of the suite in forty lines: what the launcher's tests run instead of a real one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from callbacks.errors import UserError
from callbacks.run.stored import write_checkpoint
from suite.config.check import Common
from suite.runs.launch import Run, launch
from suite.runs.study import Program

if TYPE_CHECKING:
    from somewhere.unknown import Thing  # a name that exists for type checkers only

CONF = Path(__file__).parent / "conf"
calls: list[Run] = []  # what the task was given, newest last


@dataclass
class Source:
    root: str
    rows: int
    names: list[str] | None = None


@dataclass
class Speed:
    mode: Literal["fast", "slow", "boom", "user", "term", "int", "exit", "lightning"] = "fast"
    tau: int = 0
    k: int = 1

    @staticmethod
    def inert_keys(arguments: Mapping[str, Any]) -> dict[str, str]:
        return {"k": "speed.tau=0"} if arguments["mode"] == "slow" and arguments["tau"] == 0 else {}


class Inner:
    def __init__(self, scale: float = 1.0, offset: float | None = None):
        self.scale, self.offset = scale, offset


class Part:
    built = 0

    def __init__(
        self, shape: tuple[int, ...], width: int, betas: tuple[float, float] = (0.9, 0.999), inner: Any = None
    ):
        Part.built += 1


class Exotic:
    def __init__(self, thing: Thing, size: int = 1):
        self.thing, self.size = thing, size


class Swallow:
    def __init__(self, width: int = 1, **kwargs: Any):
        self.width, self.rest = width, kwargs


@dataclass
class Method:
    alpha: float


@dataclass
class Loader:
    batch_size: int
    workers: int = 0


@dataclass
class Tree(Common):
    """Schema of fake.yaml."""

    source: Any
    loader: Loader
    methods: dict[str, Any]
    group_lr: dict[str, float]
    speed: Any
    part: Any
    trainer: Any
    logger: Any


def dead(cfg: DictConfig) -> Mapping[str, str]:
    if cfg.speed.mode == "slow":
        return {}
    return {"speed.tau": f"speed.mode is {cfg.speed.mode}, tau belongs to slow"}


def task(cfg: DictConfig, run: Run) -> dict[str, Any]:
    calls.append(run)
    mode = cfg.speed.mode
    checkpoint = run.dir / "checkpoints" / "last.ckpt"
    if mode in ("boom", "term", "int"):
        write_checkpoint({"state_dict": {}}, checkpoint)
    if mode == "boom" and run.resume_from is None:
        raise ValueError("the model exploded")
    if mode == "user":
        raise UserError("data.path", "nothing there", "a file", "make one")
    if mode == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if mode == "int":
        raise KeyboardInterrupt
    if mode == "exit":
        sys.exit(3)
    if mode == "lightning":
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        raise SIGTERMException
    return {
        "val": {"accuracy": 0.5 + cfg.seed / 100, "loss": float("nan")},
        "test": {"accuracy": 0.25},
        "counters": {},
    }


PROGRAM = Program("fake", task, dead, Tree)


def main() -> None:
    launch("fake", task, dead, schema=Tree, config_dir=CONF)


if __name__ == "__main__":
    main()
