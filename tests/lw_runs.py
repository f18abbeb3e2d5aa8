"""Small runs of the real latentwire program on tiny random models, composed, built and fitted in this process."""

from __future__ import annotations

import copy
import csv
import json
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.override_parser.overrides_parser import OverridesParser
from lw_toys import Family, byte_tokenizer, tiny_model
from omegaconf import DictConfig, OmegaConf, open_dict

from latentwire.build import Parts, build
from suite.config.compose import Composer, dotted_keys
from suite.runs.identity import run_dir
from suite.runs.job import Run, seed_everything

_COMPOSER = Composer("latentwire")
# Measured, not computed: these differ between two runs of the same numbers.
MEASURED = ("time/step_ms", "memory/peak_mb")
_GROUPS = set(_COMPOSER.groups())

SMALL = [
    "experiment=pocket_smoke",
    "encoder.width=16",
    "encoder.max_tokens=240",
    "encoder.refiner_layers=1",
    "injector.width=16",
    "wire.d_z=8",
    "wire.slots=3",
    "wire.measured_texts=4",
    "corpus.facts_per_person=2",
    "corpus.train=200",
    "corpus.val=30",
    "corpus.test=30",
    "loader.batch_size=3",
    "loader.questions=2",
    "loader.steps_per_epoch=6",
    "loader.eval_passages=4",
    "loader.eval_questions=2",
    "loader.eval_batch_size=4",
    "loader.eval_max_new_tokens=3",
    "evaluation.passages=3",
    "evaluation.max_new_tokens=3",
    "evaluation.n_boot=40",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "callbacks.audit.within=4",
    "callbacks.diagnostics.every=3",
    "lr_schedule.warmup_steps=0",
]


def save_lm(folder: Path, family: Family = "llama", seed: int = 0) -> str:
    """A tiny random model with its tokenizer as files; returns the folder."""
    path = folder / f"{family}_{seed}"
    if not path.exists():
        tiny_model(family, seed=seed).save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
    return str(path)


def lm_node(source: str) -> dict[str, Any]:
    return {"_target_": "latentwire.lm.FrozenLM.load", "source": source, "is_chat": False}


@cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    return _COMPOSER.compose(choices)


def config(folder: Path, *more: str, lms: Sequence[Family] | None = ("llama",), runs: str = "runs") -> DictConfig:
    """The tree of `SMALL`, where it has such keys, and more of a command line.

    Readers are tiny random models of the families `lms`; None: those that the line chooses.
    """
    given = any(o.startswith("experiment=") for o in more)
    small = [o for o in SMALL if not (given and o.startswith("experiment="))]
    line = [*small, f"paths.runs={folder / runs}", f"paths.cache={folder / 'cache'}", *more]
    parsed = OverridesParser.create().parse_overrides(line)
    choices = tuple(o.input_line or "" for o in parsed if o.key_or_group in _GROUPS)
    cfg = copy.deepcopy(_chosen(choices))
    there = set(dotted_keys(cfg))
    for o in parsed:
        if o.key_or_group in _GROUPS or (o.input_line in small and o.key_or_group not in there):
            continue
        with open_dict(cfg):
            if o.is_delete():
                node, _, key = o.key_or_group.rpartition(".")
                del (OmegaConf.select(cfg, node) if node else cfg)[key]
            else:
                OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True, force_add=o.is_add())
    if lms is not None:
        with open_dict(cfg):
            cfg.lms = {f"tiny_{family}": lm_node(save_lm(folder, family)) for family in lms}
    return cfg


def prepare(cfg: DictConfig, callbacks: Sequence[L.Callback] = ()) -> Parts:
    """The seeded parts of a run in its own directory; `callbacks` come after the run's own."""
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    seed_everything(int(cfg.seed))
    parts = build(cfg, run_of(cfg))
    parts.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    return parts


def run_of(cfg: DictConfig) -> Run:
    folder = run_dir(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    return Run(folder, folder.name, str(cfg.name), int(cfg.seed), None, True)


def fit(cfg: DictConfig, callbacks: Sequence[L.Callback] = (), resume: bool = False) -> Parts:
    """One run from its beginning, or continued from its `last.ckpt`."""
    parts = prepare(cfg, callbacks)
    checkpoint = str(run_dir(cfg) / "checkpoints" / "last.ckpt") if resume else None
    parts.trainer.fit(parts.module, parts.train, parts.val, ckpt_path=checkpoint, weights_only=True)
    return parts


def finish(cfg: DictConfig, **result: Any) -> Path:
    """Fit a run and write of its result what says that it is finished."""
    fit(cfg)
    told = {"status": "finished", "hash": run_dir(cfg).name, **result}
    (run_dir(cfg) / "result.json").write_text(json.dumps(told), encoding="utf-8")
    return run_dir(cfg)


def rows(cfg: DictConfig, name: str = "history.csv") -> list[list[str]]:
    """A table of the run directory without the measured quantities."""
    with (run_dir(cfg) / name).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if not (name == "history.csv" and row[2] in MEASURED)]


def history(cfg: DictConfig, name: str) -> list[float]:
    """Values of one metric in their order."""
    return [float(row[3]) for row in rows(cfg)[1:] if row[2] == name]
