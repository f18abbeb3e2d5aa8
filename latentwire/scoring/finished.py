"""What is asked of a finished wire: each evaluation in a folder of its own, `<run>/evaluations/<hash>/`.

The hash is that of what is asked (`suite.runs.identity.evaluation_hash`); training knows nothing of it. `result.json`
of the run holds the evaluation that its newest command has asked for, with the verdicts of its rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from callbacks.files.atomic import write_bytes, write_text
from callbacks.files.sealed import sealed_text
from latentwire.acceptance import Rule, judge
from latentwire.build import Inputs
from latentwire.data.base import Passage
from latentwire.report.evaluation_tables import result_table, tests_table
from latentwire.report.stored import FILES
from latentwire.rivals import RIVALS, training_budget
from latentwire.scoring.evaluator import Evaluator
from latentwire.scoring.prefixes import evaluate
from latentwire.wire import LatentWire
from suite.config.instantiate import build_node
from suite.report import markdown
from suite.runs import record
from suite.runs.fingerprint import digest_of
from suite.runs.finished import ASKED, EVALUATIONS
from suite.runs.identity import AFTERWARDS, evaluation_hash
from suite.runs.ledger import jsonable, write_json
from suite.runs.provenance import RESULT

TABLE = "table.md"
NUMBERS = ("M", "ratio", "methods", "kinds", "tests", "sizes", "evaluation_notes")  # of one evaluation
SPLITS = ("test_best", "evaluated")  # of which one holds the wire's own numbers


def folder_of(run_dir: Path, cfg: DictConfig) -> Path:
    """Return the folder of the evaluation that a tree asks for."""
    return run_dir / EVALUATIONS / evaluation_hash(cfg)


def passages_of(cfg: DictConfig, inputs: Inputs) -> list[Passage]:
    """Return the passages that are evaluated."""
    split = inputs.corpus.split(cfg.evaluation.split)
    return [split[i] for i in range(min(len(split), int(cfg.evaluation.passages)))]


def device_of(cfg: DictConfig) -> torch.device:
    """Return where an evaluation computes, which has no trainer around it: on CUDA or on the CPU.

    Raises:
        UserError: an accelerator that is asked for by name and is not there.
    """
    wanted, cuda = str(cfg.trainer.accelerator), torch.cuda.is_available()
    there = {"cpu", "auto", *(("gpu", "cuda") if cuda else ()), *(("gpu", "mps") if _has_mps() else ())}
    if wanted not in there:
        expected = f"one of this machine: {' | '.join(sorted(there))}"
        raise UserError("trainer.accelerator", wanted, expected, "set trainer.accelerator=auto")
    return torch.device("cuda" if cuda and wanted != "cpu" else "cpu")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def score(cfg: DictConfig, run_dir: Path, inputs: Inputs, wire: LatentWire, writes: bool = True) -> dict[str, Any]:
    """Evaluate a wire and every baseline at the same M on held-out passages, and store what was found.

    With `evaluation.slots` the same is done at these prefixes of its messages (`latentwire.scoring.prefixes`).

    Args:
        cfg: the tree that asks.
        run_dir: the run's directory.
        inputs: its models and data.
        wire: its wire with the finished weights.
        writes: whether this process stores what was found; of several ranks that read a sharded model, one does.

    Returns:
        The numbers of the evaluation, as `result.json` holds them.
    """
    e, start, device = cfg.evaluation, time.perf_counter(), device_of(cfg)
    evaluator = Evaluator(
        inputs.lms,
        passages_of(cfg, inputs),
        {str(name): build_node(node) for name, node in cfg.baselines.items() if node is not None},
        max_new_tokens=int(e.max_new_tokens),
        seed=int(cfg.seed),
        budget=training_budget(cfg, inputs.corpus, run_dir),
        rivals=run_dir / RIVALS if writes else None,
        batch_size=int(e.batch_size),
        n_boot=int(e.n_boot),
        decoding=None if e.get("decode") is None else build_node(e.decode),
    )
    wire.to(device).eval()
    for lm in inputs.lms.values():
        lm.to(device)
    evaluation = evaluate(evaluator, "wire", wire, e.get("slots") or [])
    found = evaluation.result()
    key = "wire" if len(inputs.lms) == 1 else f"wire/{next(iter(inputs.lms))}"
    own = {k: v for k, v in found["methods"][key].items() if isinstance(v, int | float) and math.isfinite(v)}
    found[SPLITS[0] if str(e.split) == "test" else SPLITS[1]] = {"loss": own["nll"], **own}
    if not writes:
        return dict(jsonable(found))
    folder = folder_of(run_dir, cfg)
    rows = evaluation.write(folder)
    tables = [result_table(evaluation.methods, evaluation.notes), tests_table(evaluation.tests)]
    write_text(folder / TABLE, markdown(tables))
    asked = OmegaConf.create({k: OmegaConf.to_container(cfg[k], resolve=True) for k in AFTERWARDS})
    write_bytes(folder / ASKED, sealed_text(OmegaConf.to_yaml(asked)))
    made = {
        "evaluation": folder.name,
        FILES: {rows.name: digest_of(rows)},
        "seconds": round(time.perf_counter() - start, 3),
        "finished": record.now(),
        "versions": record.versions(),
        **record.commit(),
    }
    write_json(folder / RESULT, {**found, **made})  # the last one: an evaluation with it is whole
    return dict(jsonable(found)) | {"evaluation": folder.name}


def numbers(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `result.json` of a run takes from a stored evaluation."""
    return {k: evaluation[k] for k in (*NUMBERS, *SPLITS, "evaluation") if k in evaluation}


def judged(cfg: DictConfig, trained: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's result: what was trained, the numbers of one evaluation, and the verdicts of the tree's rules.

    Args:
        cfg: the tree.
        trained: the result of the training, or a whole result whose evaluation is replaced.
        found: the numbers of the evaluation.
    """
    rules: dict[str, dict[str, Rule]] = {
        str(stage): {str(name): build_node(node) for name, node in named.items() if node is not None}
        for stage, named in cfg.acceptance.items()
        if named is not None
    }
    kept = {k: v for k, v in trained.items() if k not in (*NUMBERS, *SPLITS)}
    result = {**kept, **found}
    verdicts = judge(rules, (trained.get("counters") or {}).get("stages") or {}, result)
    return {**result, "acceptance": verdicts, "accepted": all(v["passed"] for v in verdicts)}
