"""What finished unimodal runs are asked for: frozen encoders as teachers, and the ceilings of the schedule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from asgml.methods.base import Method
from asgml.model.modality_dict import module_key
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Asgml, dead_keys
from callbacks.errors import UserError
from callbacks.run.stored import read_checkpoint
from suite.runs.identity import run_dir
from suite.runs.provenance import read_result

AUTO = "auto"


def load_teachers(cfg: DictConfig, net: MultimodalNet, methods: Mapping[str, Method]) -> dict[str, nn.Module]:
    """Return the teachers that the methods ask for by modality, in evaluation mode, without gradients.

    The key of a method that names its teachers is `checkpoints`. Teachers come with their heads where a method
    `reads_teacher_logits`.

    Raises:
        UserError: two methods ask for different ones, no finished run, no such file, or another architecture.
    """
    asked: dict[str, tuple[str, str]] = {}
    for name, method in methods.items():
        where, given = f"methods.{name}.checkpoints", method.teachers(net.modalities)
        for m, path in given.items():
            if m not in net.modalities:
                near = get_close_matches(m, net.modalities, 1)
                kept = {near[0] if near and x == m else x: p for x, p in given.items() if near or x != m}
                raise UserError(where, f"modality '{m}'", f"one of {net.modalities}", _setting(where, kept))
            if asked.setdefault(m, (where, path))[1] != path:
                other, known = asked[m]
                expected = f"{known}, as in {other}: one teacher per modality"
                raise UserError(where, f"{m}: {path}", expected, _setting(where, {**given, m: known}))
    with_head = any(method.reads_teacher_logits for method in methods.values())
    return {
        m: load_teacher(net, m, unimodal_run(cfg, m, where) if path == AUTO else Path(path), where, with_head)
        for m, (where, path) in asked.items()
    }


def _setting(key: str, checkpoints: Mapping[str, str]) -> str:
    """Return the remedy that sets a mapping of checkpoints, quoted as a shell needs it, or `auto` where it is empty."""
    items = ",".join(f"{m}:'{path}'" for m, path in checkpoints.items())
    return f'set "{key}={{{items}}}"' if items else f"set {key}={AUTO}"


def unimodal_run(cfg: DictConfig, modality: str, where: str) -> Path:
    """Return `best.ckpt` of the finished run `method=unimodal` of this very configuration, seed and name included.

    Asynchrony and boost are switched off in that run, as `method=unimodal` leaves them.

    Args:
        cfg: the configuration of the run that asks for a teacher.
        modality: the modality of the teacher.
        where: the key that asks for a teacher, for the error.

    Raises:
        UserError: there is no such run, or it has not finished.
    """
    folder = run_dir(_unimodal(cfg, modality))
    path = folder / "checkpoints" / "best.ckpt"
    if read_result(folder).get("status") != "finished" or not path.exists():
        raise _not_finished(f"{where}={AUTO}", f"of the teacher of '{modality}' ({folder})", modality)
    return path


def unimodal_ceilings(cfg: DictConfig, modalities: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of each modality alone, at the best validation epoch of its finished unimodal run.

    That run is the one that `unimodal_run` names.

    Raises:
        UserError: there is no such run of some modality, or it has not finished.
    """
    out: dict[str, float] = {}
    for m in modalities:
        folder = run_dir(_unimodal(cfg, m))
        result = read_result(folder)
        if result.get("status") != "finished" or not result.get("val_best"):
            raise _not_finished(f"asgml.adaptive.ceilings={AUTO}", f"of '{m}' alone ({folder})", m)
        out[m] = float(result["val_best"]["accuracy"])
    return out


def _unimodal(cfg: DictConfig, modality: str) -> DictConfig:
    """Return the configuration of the run `method=unimodal` that belongs to another method's run."""
    tree = copy.deepcopy(cfg)
    before = dead_keys(OmegaConf.to_container(cfg.asgml, resolve=True))  # type: ignore[arg-type]
    with open_dict(tree):
        tree.methods = {"unimodal": {"_target_": "asgml.methods.Unimodal", "modality": modality}}
        tree.asgml.mode, tree.asgml.control = "sync", "none"
        tree.asgml.boost.enabled = False
        # What only this run's mode reads has its default there, where setting it is refused. Whom a delay concerns is
        # an experiment's setting.
        default = OmegaConf.create(asdict(Asgml()), flags={"allow_objects": True})
        own = dead_keys(OmegaConf.to_container(tree.asgml, resolve=True)).keys() - before.keys()  # type: ignore[arg-type]
        for name in ({k.removeprefix("asgml.") for k in own} | {"gamma"}) - {"delayed"}:
            OmegaConf.update(tree.asgml, name, OmegaConf.select(default, name), merge=False)
    return tree


def _not_finished(where: str, which: str, modality: str) -> UserError:
    return UserError(
        where,
        f"no finished run {which}",
        "a finished unimodal run with otherwise the same settings",
        f"run the same command first with method=unimodal methods.unimodal.modality={modality} and without the "
        "settings of this method",
    )


class Teacher(nn.Module):
    """Holds a frozen encoder, and the head that was trained on it where that is asked for.

    Args:
        encoder: maps (n, *shape) to features (n, d).
        head: maps features (n, d) to logits (n, C); None where nobody asks.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module | None):
        super().__init__()
        self.encoder, self.head = encoder, head
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the features (n, d) of rows (n, *shape), with the lengths (n,) of padded ones."""
        return self.encoder(*inputs)


def load_teacher(net: MultimodalNet, modality: str, path: Path, where: str, with_head: bool) -> Teacher:
    """Return frozen copies of the network's encoder (and head) of a modality, with the weights of a checkpoint.

    Args:
        net: the network whose parts are copied.
        modality: the modality of the teacher.
        path: the checkpoint of a finished `method=unimodal` run.
        where: the key that names the checkpoint, for the error.
        with_head: whether the teacher's head is wanted as well.

    Raises:
        UserError: the file does not exist or is damaged, is of another run, or it holds an encoder or a head of another
            architecture.
    """
    if not path.exists():
        remedy = f"name a file runs/<name>/<hash>/checkpoints/best.ckpt, or set {where}={AUTO}"
        raise UserError(where, f"{modality}: {path}", "an existing checkpoint", remedy)
    of_run = path.parent.parent
    remedy = f"repeat the command of {of_run} with resume=never"
    saved = read_checkpoint(path, remedy, read_result(of_run).get("hash"))["state_dict"]
    parts: dict[str, nn.Module] = {}
    for part in ("encoder", "head") if with_head else ("encoder",):
        prefix = f"net.{part}s.{module_key(modality)}."
        weights = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        mine = getattr(net, f"{part}s")[modality]
        shapes = {k: tuple(v.shape) for k, v in mine.state_dict().items()}
        if shapes != {k: tuple(v.shape) for k, v in weights.items()}:
            raise UserError(
                where,
                f"{modality}: {path} holds another {part} ({len(weights)} tensors)",
                f"the {part} of this configuration ({len(shapes)} tensors of the same names and shapes)",
                "train the teacher with the model=… of this run and "
                f"method=unimodal methods.unimodal.modality={modality}",
            )
        parts[part] = copy.deepcopy(mine)
        parts[part].load_state_dict(weights)
    return Teacher(parts["encoder"], parts.get("head"))
