"""Frozen encoders from finished runs, for methods that learn from a teacher per modality."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, open_dict
from torch import nn

from asgml.methods.base import Method
from asgml.model.modality_dict import module_key
from asgml.model.net import MultimodalNet
from callbacks.errors import UserError
from suite.runs.identity import run_dir
from suite.runs.job import read_result

AUTO = "auto"


def load_teachers(cfg: DictConfig, net: MultimodalNet, methods: Mapping[str, Method]) -> dict[str, nn.Module]:
    """The teachers that the methods ask for, in evaluation mode, without gradients.

    Raises:
        UserError: two methods ask for different ones, no finished run, no such file, or another architecture.
    """
    asked: dict[str, str] = {}
    for name, method in methods.items():
        for m, path in method.teachers(net.modalities).items():
            if m not in net.modalities:
                raise UserError(
                    f"methods.{name}.teachers.{m}", f"modality '{m}'", f"one of {net.modalities}", "correct the name"
                )
            if asked.setdefault(m, path) != path:
                raise UserError(f"methods.{name}.teachers.{m}", path, asked[m], "one teacher per modality")
    return {m: load_encoder(net, m, unimodal_run(cfg, m) if p == AUTO else Path(p)) for m, p in asked.items()}


def unimodal_run(cfg: DictConfig, modality: str) -> Path:
    """`best.ckpt` of the finished run `method=unimodal` of this very configuration (seed and name included).

    Asynchrony and boost are switched off in it, as `method=unimodal` leaves them.
    """
    tree = copy.deepcopy(cfg)
    with open_dict(tree):
        tree.methods = {"unimodal": {"_target_": "asgml.methods.Unimodal", "modality": modality}}
        tree.asgml.mode, tree.asgml.control = "sync", "none"
        tree.asgml.boost.enabled = False
    folder = run_dir(tree)
    path = folder / "checkpoints" / "best.ckpt"
    if read_result(folder).get("status") != "finished" or not path.exists():
        raise UserError(
            f"teachers: {AUTO}",
            f"no finished run of the teacher of '{modality}' ({folder})",
            "a finished unimodal run with otherwise the same settings",
            f"run the same command first with method=unimodal methods.unimodal.modality={modality} and without the "
            "settings of this method, or name a checkpoint per modality",
        )
    return path


def load_encoder(net: MultimodalNet, modality: str, path: Path) -> nn.Module:
    """A frozen copy of the network's encoder of `modality` with the weights of a checkpoint."""
    if not path.exists():
        raise UserError("teachers", f"{modality}: {path}", "an existing checkpoint", "correct the path")
    saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = f"net.encoders.{module_key(modality)}."
    weights = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    encoder = copy.deepcopy(net.encoders[modality])
    mine = {k: tuple(v.shape) for k, v in encoder.state_dict().items()}
    if mine != {k: tuple(v.shape) for k, v in weights.items()}:
        raise UserError(
            "teachers",
            f"{modality}: {path} holds another encoder ({len(weights)} tensors)",
            f"the encoder of this configuration ({len(mine)} tensors of the same names and shapes)",
            "train the teacher with the same model",
        )
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)
