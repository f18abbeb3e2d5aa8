"""Write a program's W&B workspace as code: `python -m suite.dashboard asgml`.

    python -m suite.dashboard asgml                            writes dashboard_asgml.py
    python -m suite.dashboard latentwire --entity TEAM --save  makes the workspace in W&B

The definitions are conf/dashboard/PROGRAM.yaml: sections of panels over the metrics that the program's runs log
(logger=wandb). The file that is written makes the same workspace by itself, and is there to be changed. Making one
takes the package wandb-workspaces and a W&B login; writing the file takes neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from suite.config.compose import conf_dir
from suite.runs.command import command, command_parser

MODULES = {"ws": "wandb_workspaces.workspaces", "wr": "wandb_workspaces.reports.v2"}
PACKAGE = "wandb_workspaces"
STEP = "trainer/global_step"  # the step axis of every run, `callbacks.run.tracking.STEP`
RUNS = 50  # drawn in a panel
FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Lines:
    """Defines a panel of metrics over steps.

    Attributes:
        kind: the word that says so.
        title: the title.
        metrics: the metrics by name.
        pattern: the regular expression of further metrics, matched against whole names; null for none.
        log: whether their axis is logarithmic.
    """

    __pydantic_config__ = FORBID

    kind: Literal["lines"]
    title: str
    metrics: tuple[str, ...] = ()
    pattern: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Bars:
    """Defines a panel of summary keys, one bar per run or group.

    Attributes:
        kind: the word that says so.
        title: the title.
        metrics: the summary keys.
    """

    __pydantic_config__ = FORBID

    kind: Literal["bars"]
    title: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """Defines one axis of parallel coordinates.

    Attributes:
        title: what it is called.
        config: the dotted key of the configuration that it shows; null where it shows a summary key.
        summary: that summary key.
        log: whether it is logarithmic.
    """

    __pydantic_config__ = FORBID

    title: str
    config: str | None = None
    summary: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Parallel:
    """Defines parallel coordinates: one line per run, through configuration and result.

    Attributes:
        kind: the word that says so.
        title: the title.
        columns: the axes from left to right.
    """

    __pydantic_config__ = FORBID

    kind: Literal["parallel"]
    title: str
    columns: tuple[Axis, ...]


@dataclass(frozen=True)
class Section:
    """Defines a section of panels.

    Attributes:
        name: its heading.
        panels: the panels in order.
    """

    __pydantic_config__ = FORBID

    name: str
    panels: tuple[Annotated[Lines | Bars | Parallel, Field(discriminator="kind")], ...]


@dataclass(frozen=True)
class Definition:
    """Defines a workspace.

    Attributes:
        name: what W&B calls it.
        project: the W&B project of the program's runs.
        grouped: whether runs are shown by group, the seeds of a configuration together.
        pinned: the summary keys that stand as columns beside the runs.
        sections: the sections in order.
    """

    __pydantic_config__ = FORBID

    name: str
    project: str
    grouped: bool
    pinned: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Call:
    """Stands for a call of wandb-workspaces, which can be made or written as code.

    Attributes:
        name: what is called, `ws.Workspace`.
        options: its keyword arguments; calls among them, also in lists.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Name:
    """Stands for a variable of the code that is written."""

    name: str


def programs() -> list[str]:
    """Return the programs that have a definition."""
    return sorted(path.stem for path in (conf_dir() / "dashboard").glob("*.yaml"))


def read(path: Path) -> Definition:
    """Read a definition.

    Raises:
        UserError: an unknown key, or a value that does not fit its key.
    """
    try:
        return TypeAdapter(Definition).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {key}", first["msg"], "what conf/dashboard/asgml.yaml shows", f"edit {key}"
        ) from error


def workspace(definition: Definition, entity: Any, project: str | None = None) -> Call:
    """Return the workspace of a definition as a call.

    Args:
        definition: the definition.
        entity: the W&B user or team whose workspace it is.
        project: the W&B project; None takes that of the definition.
    """
    sections = [
        Call("ws.Section", {"name": s.name, "panels": [_panel(p) for p in s.panels], "is_open": True})
        for s in definition.sections
    ]
    shown: dict[str, Any] = {"pinned_columns": [f"summary:{key}" for key in definition.pinned]}
    if definition.grouped:
        shown["groupby"] = [Call("ws.Metric", {"name": "Group"})]
    return Call(
        "ws.Workspace",
        {
            "name": definition.name,
            "entity": entity,
            "project": project or definition.project,
            "sections": sections,
            "settings": Call("ws.WorkspaceSettings", {"x_axis": STEP, "max_runs": RUNS}),
            "runset_settings": Call("ws.RunsetSettings", shown),
        },
    )


def _panel(panel: Lines | Bars | Parallel) -> Call:
    if isinstance(panel, Bars):
        return Call("wr.BarPlot", {"title": panel.title, "metrics": list(panel.metrics)})
    if isinstance(panel, Parallel):
        return Call("wr.ParallelCoordinatesPlot", {"title": panel.title, "columns": [_axis(a) for a in panel.columns]})
    options: dict[str, Any] = {"title": panel.title, "x": STEP, "y": list(panel.metrics)}
    if panel.pattern is not None:
        options["metric_regex"] = f"^{panel.pattern}$"
    if panel.log:
        options["log_y"] = True
    return Call("wr.LinePlot", options)


def _axis(axis: Axis) -> Call:
    kind, name = ("wr.Config", axis.config) if axis.config is not None else ("wr.SummaryMetric", axis.summary)
    options = {"metric": Call(kind, {"name": name}), "display_name": axis.title}
    return Call("wr.ParallelCoordinatesPlotColumn", options | ({"log": True} if axis.log else {}))


def made(value: Any) -> Any:
    """Make a call, and the calls among its arguments.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    if isinstance(value, Call):
        if importlib.util.find_spec(PACKAGE) is None:
            raise UserError(
                "suite.dashboard --save",
                "the package wandb-workspaces is not installed",
                "it, which the extra `tracking` brings; without --save the workspace is written as code",
                'pip install "wandb-workspaces>=0.4,<1"',
            )
        module, _, name = value.name.partition(".")
        target = getattr(importlib.import_module(MODULES[module]), name)
        return target(**{key: made(option) for key, option in value.options.items()})
    return [made(item) for item in value] if isinstance(value, list) else value


def code(call: Call, entity: str | None, program: str) -> str:
    """Return a Python file that makes a workspace.

    Args:
        call: the workspace; its entity is `Name("ENTITY")`.
        entity: the W&B user or team; None reads WANDB_ENTITY when the file runs.
        program: the program that it is about.
    """
    value = repr(entity) if entity is not None else 'os.environ["WANDB_ENTITY"]  # user or team'
    imports = [f"import {path} as {name}" for name, path in sorted(MODULES.items(), key=lambda m: m[1])]
    return "\n".join(
        [
            f'"""The W&B workspace of {program}. Run it after `pip install wandb-workspaces` and `wandb login`."""',
            "",
            *(["import os", ""] if entity is None else []),
            *imports,
            "",
            f"ENTITY = {value}",
            "",
            f"workspace = {_text(call, '')}",
            "",
            'if __name__ == "__main__":',
            "    workspace.save()",
            "",
        ]
    )


def _text(value: Any, indent: str) -> str:
    if isinstance(value, Name):
        return value.name
    deeper = f"{indent}    "
    if isinstance(value, Call):
        brackets, items = (f"{value.name}(", ")"), [f"{k}={_text(v, deeper)}" for k, v in value.options.items()]
    elif isinstance(value, list):
        brackets, items = ("[", "]"), [_text(item, deeper) for item in value]
    else:
        return repr(value)
    line = f"{brackets[0]}{', '.join(items)}{brackets[1]}"
    if "\n" not in line and len(indent) + len(line) <= 96:
        return line
    return f"{brackets[0]}\n" + "".join(f"{deeper}{item},\n" for item in items) + f"{indent}{brackets[1]}"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    known = programs()
    parser = command_parser("python -m suite.dashboard", __doc__)
    parser.add_argument("program", help=f"one of {', '.join(known)}")
    parser.add_argument("--entity", help="W&B user or team (default: WANDB_ENTITY)")
    parser.add_argument("--project", help="W&B project (default: that of the program's runs)")
    parser.add_argument("--out", type=Path, help="file to write (default: dashboard_PROGRAM.py)")
    parser.add_argument("--save", action="store_true", help="make the workspace in W&B, write no file")
    asked = parser.parse_args(argv)
    if asked.program not in known:
        where = "python -m suite.dashboard"
        expected = f"one of {', '.join(known)}"
        raise UserError(f"{where} {asked.program}", "no such dashboard", expected, f"{where} {known[0]}")
    definition = read(conf_dir() / "dashboard" / f"{asked.program}.yaml")
    if asked.save:
        entity = asked.entity or os.environ.get("WANDB_ENTITY")
        if not entity:
            raise UserError("--entity", "no value", "the W&B user or team of the workspace", "add --entity TEAM")
        made(workspace(definition, entity, asked.project)).save()
        return 0
    out = asked.out or Path(f"dashboard_{asked.program}.py")
    write_text(out, code(workspace(definition, Name("ENTITY"), asked.project), asked.entity, asked.program))
    print(f'{out}: pip install "wandb-workspaces>=0.4,<1", then python {out} makes the workspace in W&B')
    return 0


if __name__ == "__main__":
    sys.exit(main())
