"""What was measured, kept in one file that grows section by section."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.accelerator.section import Row
from suite.runs import record
from suite.runs.ledger import write_json

FILE = "results.json"
Status = Literal["done", "failed", "not done"]


@dataclass
class Answer:
    """Holds what became of a section.

    Attributes:
        status: whether it was `done` to its end, `failed` with an error, or `not done` for lack of hardware or time.
        reason: why it was not done or failed, in one line.
        rows: the rows that it gave, also those before an error.
        seconds: how long it took.
        circumstances: the device, the versions and the code that it was done with.
        finished: the time at its end, UTC.
    """

    status: Status
    reason: str = ""
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    circumstances: dict[str, str] = field(default_factory=dict)
    finished: str = ""

    @property
    def failed(self) -> bool:
        """Whether it failed, as a whole or in one of its promises."""
        return self.status == "failed" or any(row.verdict == "failed" for row in self.rows)


class Results:
    """Reads and writes the answers of a folder, each as soon as there is one.

    Args:
        folder: the folder; it may not exist yet.

    Raises:
        UserError: a file that is none of ours.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.answers: dict[str, Answer] = {}
        if self.path.exists():
            expected = "the results of an earlier call"
            remedy = f"rm {quoted(self.path)}, then start the same command again"
            stored = read_json(self.path, expected, remedy)
            try:
                self.answers = {name: _answer(a) for name, a in stored["sections"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(str(self.path), f"unreadable: {error!r}", expected, remedy) from error

    def put(self, name: str, answer: Answer) -> None:
        """Keep an answer; the file is replaced as a whole."""
        self.answers[name] = answer
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"sections": {n: asdict(a) for n, a in self.answers.items()}})


def _answer(stored: dict[str, Any]) -> Answer:
    return Answer(**{**stored, "rows": [Row(**row) for row in stored["rows"]]})


def circumstances(device: torch.device) -> dict[str, str]:
    """Return device, torch, commit and a hash of the code; what was found under others is measured again."""
    commit = record.commit()
    name = "the CPU, rehearsal only"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        name = f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    known = str(commit["commit"])[:12] + (" and local changes" if commit["dirty"] else "")
    return {
        "device": name,
        "torch": str(torch.__version__),
        "commit": known if commit["commit"] else "",
        "code": code_hash(),
    }


def code_hash() -> str:
    """Return twelve digits over all Python and YAML files of the packages and `conf/` beside this one."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.blake2b(digest_size=6)
    for path in _sources(root):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    packages = sorted(p for p in root.iterdir() if (p / "__init__.py").exists() or p.name == "conf")
    for package in packages:
        for folder, _, files in sorted(os.walk(package)):
            yield from (Path(folder, f) for f in sorted(files) if f.endswith((".py", ".yaml")))
