"""The page of what was measured on an accelerator, and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from suite.accelerator.results import FILE, Answer
from suite.accelerator.section import Row, Section

NOTHING = "**Not measured yet:** no run of this command has had an accelerator."
HEAD = """# Accelerator

Written by `make accelerator`: what only an accelerator can show, section by section, in at most 8 minutes. Started
again, it does what is missing or failed with an error; a change of code, device or torch is measured anew, a section of
your choice with `python -m suite.accelerator {programs} --again NAME`.

- With network: `make accelerator` on the machine itself.
- Without: bring the checkout with its `.venv` (same operating system and Python) and type
  `make -o .venv/.installed accelerator`, which installs nothing; or, where a Python with torch, torchvision, lightning,
  torchmetrics, hydra-core, pydantic and lazy-loader is there, `PYTHONPATH=. python3 -m suite.accelerator {programs}`.
- `OUT=FOLDER` puts `{file}` elsewhere than `runs/accelerator`. Copied back there, it becomes this page by
  `python -m suite.accelerator {programs} --page-only`.
- `python -m suite.accelerator {programs} --dry` rehearses every section on the CPU in seconds and writes no page.
"""


def page(sections: Mapping[str, Sequence[Section]], answers: Mapping[str, Answer]) -> str:
    """Return the page as Markdown.

    Args:
        sections: the sections of each program.
        answers: what became of them, by name; a section without one is listed as not measured.
    """
    parts = [HEAD.format(programs=" ".join(sections), file=FILE)]
    everyone = [s for own in sections.values() for s in own]
    if not any(s.name in answers for s in everyone):
        listed = [f"| {s.title} | `{s.name}` | {s.seconds:.0f} | not measured yet |" for s in everyone]
        table = "\n".join(["| section | name | seconds at most | state |", "|:---|:---|---:|:---|", *listed])
        return "\n".join([*parts, NOTHING, "", table, ""])
    for section in everyone:
        parts += [f"## {section.title}", "", *_section(answers.get(section.name)), ""]
    return "\n".join(parts)


def _section(answer: Answer | None) -> list[str]:
    if answer is None:
        return ["Not measured yet."]
    c = answer.circumstances
    where = ", ".join(
        part for part in (c["device"], f"torch {c['torch']}", f"commit {c['commit']}" if c["commit"] else "") if part
    )
    lines = [f"{where}; {answer.seconds:.0f} s, {answer.finished[:10]}."]
    if answer.status != "done":
        lines.append(f"**{answer.status[0].upper()}{answer.status[1:]}**: {answer.reason}")
    if answer.rows:
        head = ["| | measured | expected | |", "|:---|:---|:---|:---|"]
        lines += ["", *head, *map(_row, answer.rows)]
    return lines


def _row(row: Row) -> str:
    verdict = f"**{row.verdict}**" if row.verdict == "failed" else row.verdict
    cells = (row.name, row.measured, row.expected, verdict)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(path: Path, sections: Mapping[str, Sequence[Section]], answers: Mapping[str, Answer]) -> None:
    """Write the page.

    Raises:
        UserError: there are no answers, and the page has some that they would replace.
    """
    if not answers and path.exists() and NOTHING not in path.read_text(encoding="utf-8"):
        raise UserError(
            str(path),
            f"measurements, and no {FILE} to write them from",
            f"the {FILE} that the page was written from",
            f"copy it to runs/accelerator/{FILE}, or name its folder: --out FOLDER",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(sections, answers))
