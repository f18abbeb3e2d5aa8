"""What a result was made of, what has changed since, and which other runs of the same configuration there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json, read_text
from callbacks.run.inputs import differing
from suite.runs.identity import HASH, config_hash, fingerprints
from suite.runs.inputs import all_files, changed_code, code, given_files
from suite.runs.written import WRITTEN

RESULT, CONFIG = "result.json", "config.yaml"  # of a run


def read_result(folder: Path) -> dict[str, Any]:
    """Read a run directory's `result.json`; {} when there is none.

    Raises:
        UserError: a damaged one, or that of another run: a folder that is called by a hash holds the run of that hash.
    """
    path, own = folder / RESULT, folder.resolve().name
    remedy = f"rm {quoted(path)}, then give the run's command again: it goes on from its last checkpoint"
    if path.is_dir():
        raise UserError(str(path), "a folder", "the result of a run", remedy.replace("rm ", "rm -r ", 1))
    if not path.is_file():
        return {}
    result = read_json(path, "one JSON object as it was written", remedy, WRITTEN)
    if re.fullmatch(HASH, own) and (other := result.get("hash", own)) != own:
        raise UserError(str(path), f"the result of another run, {other}", f"that of run {own}", remedy)
    return result


def read_config_text(folder: Path, expected: str, remedy: str) -> str:
    """Read a run directory's `config.yaml`, which has a seal if the result beside it is of a release that seals.

    Args:
        folder: the run's directory.
        expected: what the file should be, for the error.
        remedy: what to do about damage, for the error.

    Raises:
        UserError: a damaged or rewritten file, or a damaged result.
    """
    return read_text(folder / CONFIG, expected, remedy, required=WRITTEN in read_result(folder))


def provenance(cfg: DictConfig) -> dict[str, Any]:
    """Return what is recorded of a run before it starts.

    `configuration` is its hash without any data, `inputs` are the fingerprints of the files that the user gives, `code`
    the hashes of the source files of what it is built from.
    """
    given = fingerprints(cfg, given_files(cfg))
    return {"configuration": config_hash(cfg, inputs=False), "inputs": given, "code": code(cfg)}


def inputs_read(cfg: DictConfig, earlier: Mapping[str, Path], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprints of all files that a finished run has read.

    Args:
        cfg: the whole configuration.
        earlier: as for `suite.runs.inputs.all_files`.
        given: the fingerprints of the given files when the run started.
    """
    return {**fingerprints(cfg, all_files(cfg, earlier)), **given}


def remarks(result: Mapping[str, Any], now: Mapping[str, Any], code_now: Mapping[str, str]) -> list[str]:
    """Return what a user should know when a result is reused whose files have not changed, as short phrases.

    Args:
        result: the content of its `result.json`.
        now: the fingerprints of the files as they are.
        code_now: the hashes of the code as it is.
    """
    said = []
    then = result.get("inputs")
    if then is None:
        said += ["its data were not recorded"] if now else []
    else:
        compared, gone = [r for r in then if r in now], [r for r in then if r not in now]
        said += [f"data unchanged ({', '.join(compared[:3])}{', …' if len(compared) > 3 else ''})"] if compared else []
        said += [f"not there to compare: {', '.join(gone)}"] if gone else []
    return [*said, *code_remark(result, code_now)]


def code_remark(result: Mapping[str, Any], code_now: Mapping[str, str]) -> list[str]:
    """Return one phrase on the code that has changed since a result was begun; [] where none has."""
    changed = changed_code(result.get("code"), code_now)
    return [f"code changed since: {', '.join(changed)}"] if changed else []


def on_other_data(cfg: DictConfig, folder: Path, given: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Find the newest run of the same configuration on other data: its directory, and how the data differ.

    A run whose result cannot be read is not among them.

    Args:
        cfg: the whole configuration.
        folder: the directory of the run itself.
        given: the fingerprints of its given files; without any, there are no other data.
    """
    if not given:
        return None
    wanted, found = config_hash(cfg, inputs=False), []
    for path in folder.parent.glob(f"*/{RESULT}"):
        try:
            result = read_result(path.parent)
        except UserError:  # what is wrong with it, its own command says
            continue
        if result.get("configuration") == wanted and result.get("hash") != folder.name:
            found.append((result.get("started") or "", path.parent, "; ".join(differing(result.get("inputs"), given))))
    return max(found)[1:] if found else None
