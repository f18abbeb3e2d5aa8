"""How many devices and nodes a run asks for, and what has to start its processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError

AUTO = ("auto", -1, "-1")
# the variables that tell a process its rank, in the order in which Lightning asks, and what is set with each
PARTNERS = {
    "RANK": ("WORLD_SIZE", "LOCAL_RANK"),
    "LOCAL_RANK": ("WORLD_SIZE",),
    "SLURM_PROCID": ("SLURM_NTASKS",),
    "JSM_NAMESPACE_RANK": ("JSM_NAMESPACE_SIZE",),
}


def nodes(cfg: DictConfig) -> int:
    """Return the number of nodes of a run."""
    return int(OmegaConf.select(cfg, "trainer.num_nodes") or 1)


def devices(cfg: DictConfig) -> int | None:
    """Return the number of devices of a run on each node; None where it takes all there are."""
    asked = OmegaConf.select(cfg, "trainer.devices")
    if asked in AUTO:
        return None
    if isinstance(asked, str):
        return int(asked) if asked.isdigit() else len([d for d in asked.split(",") if d.strip()])
    if asked is None or isinstance(asked, int):
        return asked or 1
    return len(asked)


def devices_here(cfg: DictConfig) -> int:
    """Return the number of devices of a run on this machine."""
    count = devices(cfg)
    if count is not None:
        return count
    if OmegaConf.select(cfg, "trainer.accelerator") == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def refuse_several(cfg: DictConfig) -> None:
    """Refuse several devices in a sweep on one machine: each rank would repeat the command line, the whole sweep.

    Raises:
        UserError: a run of several devices or nodes.
    """
    number = "trainer.num_nodes" if nodes(cfg) > 1 else "trainer.devices"
    if nodes(cfg) > 1 or devices_here(cfg) > 1:
        raise UserError(
            f"{number}={OmegaConf.select(cfg, number)}",
            "several devices in a sweep on this machine",
            "one device per job",
            f"set {number}=1, or run one job at a time without -m, or send the sweep to a cluster: launcher=slurm",
        )


def refuse_missing_peers(cfg: DictConfig) -> None:
    """Refuse several nodes where nothing has started, or will start, the processes of the others.

    Raises:
        UserError: `trainer.num_nodes` above 1 outside of SLURM and torchrun, and without the address of the first node.
    """
    started = any(name in os.environ for name in ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID"))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if nodes(cfg) > 1 and not started and missing:
        raise UserError(
            f"trainer.num_nodes={nodes(cfg)}",
            f"no other node: {_listed(missing)} not set, and neither SLURM nor torchrun has started this process",
            "one process per device on every node, each of which knows the first node's address",
            "add launcher=slurm, or set trainer.num_nodes=1; by hand: give the command on each node with "
            "MASTER_ADDR=HOST MASTER_PORT=29500 NODE_RANK=0 (1, 2, …) before it",
        )


class StrayRank(UserError):
    """Says that this process takes itself for one of several. Every rank prints it: there may be no other."""


def rank() -> int:
    """Return the number of this process among those of its run, as the environment gives it; 0 where nothing does."""
    if int(os.environ.get("NODE_RANK", "0")) > 0 and "RANK" not in os.environ:
        return int(os.environ["NODE_RANK"])
    return next((int(os.environ[name]) for name in PARTNERS if name in os.environ), 0)


def refuse_stray_rank() -> None:
    """Refuse variables that make this process one of several ranks where nobody has started the others.

    Raises:
        StrayRank: a rank in the environment that is no number, or without what its starter sets beside it.
    """
    for name, partners in (*PARTNERS.items(), ("NODE_RANK", ("MASTER_ADDR",))):
        if name not in os.environ:
            continue
        expected = "all of them, as Lightning, torchrun and SLURM set them, or none; a rank above 0 writes nothing"
        if not os.environ[name].isdecimal():
            raise StrayRank(_shown(name), "not a number", "the rank of this process", f"unset {name}")
        missing = [other for other in partners if other not in os.environ]
        if missing:
            found = f"{_listed(missing)} not set: {name} is left over from something else"
            raise StrayRank(_shown(name), found, expected, f"unset {name}")


def refuse_idle_rank(cfg: DictConfig) -> None:
    """Refuse a run of one device in a process that is not its first: it would train, and write nothing.

    Raises:
        StrayRank: a rank above 0 without a second device or node.
    """
    if rank() > 0 and nodes(cfg) == 1 and devices(cfg) == 1:
        name = next(name for name in (*PARTNERS, "NODE_RANK") if int(os.environ.get(name, "0")) > 0)
        raise StrayRank(
            _shown(name),
            "a run of one device, of which this process would be a spare copy that writes nothing",
            "trainer.devices and trainer.num_nodes as many as there are processes, or one process",
            f"unset {name}, or set trainer.devices to the number of processes",
        )


def _shown(name: str) -> str:
    return f"{name}={os.environ[name]} in the environment"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
