"""What trackers are told of a run: its configuration, what it is called, and in the end what it has found."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks.run.tracking import RunLogger, wandb_id, wandb_logger
from suite.config.instantiate import build_node
from suite.config.signature import locate
from suite.runs import record
from suite.runs.fingerprint import digests
from suite.runs.finished import referring
from suite.runs.identity import NOT_MEANINGFUL, config_hash, fingerprints
from suite.runs.inputs import all_files
from suite.runs.job import Run

PROVENANCE = "provenance"  # the key of the config under which a tracker finds what the tree does not say
UNTOLD = (*NOT_MEANINGFUL, "seed", "name", "experiment", "hydra", "program")  # overrides that name no difference
LONGEST = 128  # characters of a W&B name
WEIGHTS = {"": "last", "_best": "best"}  # suffix of a split in `result.json` -> whose weights were evaluated
SPLITS = ("val", "test")
TABLES = ("history.csv", "timeline.csv", "events.csv")  # of a run, as `callbacks.run.history` names them


@dataclass(frozen=True)
class Findings:
    """What a program hands to trackers beside its result.

    Attributes:
        files: files and folders by the type of artefact: `predictions`, `evaluation`.
        verdicts: the key of the result under which the verdicts of rules lie, a list of mappings; "" for none.
    """

    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    verdicts: str = ""


def facts_of(cfg: DictConfig, run: Run, tags: Sequence[str]) -> dict[str, Any]:
    """Return what a logger may ask for by parameter name.

    Args:
        cfg: the whole configuration.
        run: the run in progress.
        tags: what the program tags its runs with.
    """
    return {
        "run_dir": str(run.dir),
        "run_id": wandb_id(run.dir),
        "run_name": name_of(cfg, run.overrides),
        "run_tags": [str(cfg.program), run.name, *tags],
        "group": group_of(cfg),
        "config": config_of(cfg, run.hash, run.earlier),
    }


def config_of(cfg: DictConfig, run_hash: str, earlier: Mapping[str, Path]) -> dict[str, Any]:
    """Return the resolved tree as nested plain containers, with the provenance of the run beside it.

    `provenance.data` is one digest of everything the run reads, None where it reads no file; `provenance.inputs` has
    the SHA-256 of every file by role, with `/` in place of the dots that W&B would take for another level.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    read = digests(fingerprints(cfg, all_files(cfg, earlier)))
    told = "\n".join(f"{role} {digest}" for role, digest in sorted(read.items()))
    made_of = {
        "hash": run_hash,
        "configuration": config_hash(cfg, inputs=False),
        **record.commit(),
        "data": hashlib.sha256(told.encode()).hexdigest()[:12] if read else None,
        "inputs": {role.replace(".", "/"): digest for role, digest in read.items()},
        "versions": dict(record.versions()),
    }
    return {**{str(k): v for k, v in plain.items() if k != "hydra"}, PROVENANCE: made_of}


def group_of(cfg: DictConfig) -> str:
    """Return what the seeds of one configuration have in common: `<experiment>-<hash of the tree at seed 0>`.

    A run that stands on another run of its own seed (a teacher, a donor) is in a group of its own.
    """
    same = copy.deepcopy(cfg)
    same.seed = 0
    return f"{cfg.name}-{config_hash(same)}"


def name_of(cfg: DictConfig, overrides: Sequence[str]) -> str:
    """Return a name of at most 128 characters: the label, the overrides that count, the seed: `tau=2 lr=0.1 seed=0`.

    Args:
        cfg: the whole configuration.
        overrides: what tells the run from others: of a sweep, the overrides that its jobs do not share.
    """
    told = [_short(o) for o in overrides if _told(o)]
    head = [str(cfg.label)] if cfg.get("label") else [] if told else [str(cfg.name)]
    tail = f" seed={cfg.seed}"
    text = " ".join([*head, *dict.fromkeys(told)])
    room = LONGEST - len(tail)
    return (text if len(text) <= room else f"{text[: room - 1]}…") + tail


def _told(override: str) -> bool:
    key = re.split(r"[=@]", override, maxsplit=1)[0].lstrip("+~")
    return not any(key == k or key.startswith((f"{k}.", f"{k}/")) for k in UNTOLD)


def _short(override: str) -> str:
    """Return an override with the last part of its key and, of a path, the last part of its value."""
    key, equals, value = override.partition("=")
    if not equals:  # ~callbacks.probe
        return override
    value = value.strip("[]").replace("'", "").replace('"', "")
    value = Path(value).name if "/" in value else value
    return f"{key.lstrip('+').rpartition('.')[2]}={value or 'none'}"


def publish(loggers: Sequence[Any], run_dir: Path, result: Mapping[str, Any], findings: Findings) -> None:
    """Tell W&B what a run has found: summary, tables, artefacts. Call it before the loggers are closed.

    Args:
        loggers: the trainer's loggers; those that are not W&B's are passed over, as on ranks that have none.
        run_dir: the run's directory, with its report.
        result: what the run returns for `result.json`.
        findings: what the program adds.
    """
    told = [logger for logger in loggers if isinstance(logger, RunLogger)]
    if not told:
        return
    from suite.report.library import library_of

    tables = tables_of(run_dir, result, findings.verdicts)
    files = {
        "report": [run_dir / "report.html", *library_of(run_dir)],
        "history": [run_dir / name for name in TABLES],
        **findings.files,
    }
    tested = result.get("test") or result.get("test_best") or {}
    last = {f"test/{name}": value for name, value in tested.items() if _number(value)}
    for logger in told:
        logger.publish(last, summary_of(result), tables, files)


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a result adds to W&B's summary.

    `last/<split>/<metric>` and `best/<split>/<metric>` are the numbers of the last weights and of those of the best
    validation, `best/epoch` and `best/step` the moment of the latter, `accepted` whether all rules were met.
    """
    found: dict[str, Any] = {}
    for suffix, weights in WEIGHTS.items():
        for split in SPLITS:
            metrics = result.get(f"{split}{suffix}") or {}
            found |= {f"{weights}/{split}/{name}": value for name, value in metrics.items() if _number(value)}
    for key in ("best_epoch", "best_step"):
        if result.get(key) is not None:
            found[key.replace("_", "/")] = result[key]
    if "accepted" in result:
        found["accepted"] = bool(result["accepted"])
    return found


def tables_of(
    run_dir: Path, result: Mapping[str, Any], verdicts: str = ""
) -> dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    """Return the tables of a finished run, columns and rows by name: its metrics, those of its report, its verdicts."""
    from suite.report.data import read_run
    from suite.report.grouping import group_runs
    from suite.report.summary import summary

    rows = [
        [weights, split, name, value]
        for suffix, weights in WEIGHTS.items()
        for split in SPLITS
        for name, value in (result.get(f"{split}{suffix}") or {}).items()
        if _number(value)
    ]
    found: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}
    if rows:
        found["metrics"] = (["weights", "split", "metric", "value"], rows)
    run = read_run(run_dir)
    run.result = {**run.result, **result, "status": "finished"}
    for frames in group_runs([run]):
        for number, table in enumerate(summary(frames)):
            name = re.sub(r"[^a-z0-9]+", "_", table.title.lower()).strip("_") or f"summary_{number}"
            titles = [column.title or "configuration" for column in table.columns]
            cells = [[c.text if c.value is None else c.value for c in row] for row in table.rows]
            found[f"report_{name}"] = (titles, cells)
    judged = list(result.get(verdicts) or ()) if verdicts else []
    if judged:
        titles = list(dict.fromkeys(key for verdict in judged for key in verdict))
        found["verdicts"] = (titles, [[_cell(verdict.get(key)) for key in titles] for verdict in judged])
    return found


def track_evaluation(
    cfg: DictConfig, run_dir: Path, evaluation: str, result: Mapping[str, Any], tags: Sequence[str], findings: Findings
) -> None:
    """Log the evaluation of a finished run as a W&B run of its own, `job_type: evaluate`, in the run's group.

    Args:
        cfg: the tree that asked; where it has no W&B logger, nothing is logged.
        run_dir: the run's directory.
        evaluation: the hash of what was asked, with which the id ends.
        result: the run's result with the numbers of this evaluation.
        tags: what the program tags its runs with.
        findings: what the program adds.
    """
    run = Run(run_dir, run_dir.name, str(cfg.name), int(cfg.seed), None, is_main=True)
    for node in cfg.logger.values():
        if node is None or locate(node._target_) is not wandb_logger:
            continue
        own = copy.deepcopy(node)
        with open_dict(own):
            own.update({"_partial_": True, "job_type": "evaluate"})
        built = build_node(own)
        known = facts_of(cfg, run, tags)
        known |= {"run_id": f"{run_dir.name}-{evaluation}", "run_name": f"{known['run_name']} evaluation={evaluation}"}
        logger = built(**{key: value for key, value in known.items() if key not in built.keywords})
        code = 1
        try:
            publish([logger], run_dir, result, findings)
            code = 0
        finally:
            logger.experiment.finish(exit_code=code)


def track_scores(
    own: DictConfig,
    run_dir: Path,
    folder: Path,
    result: Mapping[str, Any],
    data: DictConfig,
    asked: Mapping[str, Any],
    tags: Sequence[str],
    findings: Findings,
) -> None:
    """File the scores of finished weights on other data with the run's trackers, as `track_evaluation` does.

    The configuration is the run's, with what was scored under `evaluation`; the numbers are those of the evaluation
    alone, as of the weights that were scored.

    Args:
        own: the run's configuration.
        run_dir: its directory.
        folder: the evaluation's folder, named by its hash.
        result: what was found, as `suite.runs.evaluations.keep` returns it, with `test` among it.
        data: the node of the data that were scored.
        asked: what else was asked.
        tags: what the program tags its runs with.
        findings: what the program adds.
    """
    told: Any = OmegaConf.to_container(data, resolve=True)
    source = told.pop("_target_")  # no target of the tree: what the run reads are its own data
    own = referring(own)
    with open_dict(own):
        own.evaluation = {"source": source, "data": told, **asked, "checkpoint": result["checkpoint"]}
    suffixes = {name: suffix for suffix, name in WEIGHTS.items()}
    numbers: dict[str, Any] = {f"{split}{suffix}": {} for split in SPLITS for suffix in WEIGHTS}
    numbers[f"test{suffixes[result['checkpoint']]}"] = result["test"]
    track_evaluation(own, run_dir, folder.name, numbers, tags, findings)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)
