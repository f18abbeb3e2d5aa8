"""`python -m suite.dashboard`: workspaces of W&B from YAML, made and written as code, without a network."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from callbacks.errors import UserError
from callbacks.run.tracking import STEP as AXIS
from suite import dashboard
from suite.config.compose import conf_dir

# The parameters of wandb-workspaces 0.4 that workspaces here may use, by its documentation; no others are taken.
TAKEN = {
    "ws": {
        "Workspace": ["entity", "project", "name", "sections", "settings", "runset_settings"],
        "Section": ["name", "panels", "is_open", "pinned", "layout_settings", "panel_settings"],
        "WorkspaceSettings": ["x_axis", "smoothing_type", "smoothing_weight", "group_by_prefix", "max_runs"],
        "RunsetSettings": ["query", "filters", "groupby", "order", "pinned_columns"],
        "Metric": ["name"],
    },
    "wr": {
        "LinePlot": ["title", "x", "y", "log_x", "log_y", "metric_regex", "smoothing_type", "plot_type"],
        "BarPlot": ["title", "metrics", "orientation", "max_bars_to_show"],
        "ParallelCoordinatesPlot": ["columns", "title", "gradient"],
        "ParallelCoordinatesPlotColumn": ["metric", "display_name", "inverted", "log"],
        "Config": ["name"],
        "SummaryMetric": ["name"],
    },
}


@dataclass
class Saved:
    """What stands in for W&B: the workspaces that were saved."""

    workspaces: list[Any] = field(default_factory=list)


@pytest.fixture
def wandb_workspaces(monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Stand-ins for the package's modules that take its parameters and keep them."""
    saved = Saved()
    for short, kinds in TAKEN.items():
        place = dashboard.MODULES[short]
        for parent in ("wandb_workspaces", place.rpartition(".")[0]):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        module = ModuleType(place)
        for name, parameters in kinds.items():
            own = {"save": lambda workspace: saved.workspaces.append(workspace)} if name == "Workspace" else {}
            fields = [(p, Any, field(default=None)) for p in parameters]
            setattr(module, name, make_dataclass(name, fields, namespace=own))
        monkeypatch.setitem(sys.modules, place, module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return saved


@pytest.mark.parametrize("program", dashboard.programs())
def test_a_workspace_is_made_and_its_code_makes_the_same(
    program: str, tmp_path: Path, wandb_workspaces: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert dashboard.main([program, "--save"]) == 0
    (made,) = wandb_workspaces.workspaces
    assert (made.entity, made.project) == ("team", program)
    assert made.settings.x_axis == AXIS
    panels = [panel for section in made.sections for panel in section.panels]
    assert {type(panel).__name__ for panel in panels} == {"LinePlot", "BarPlot", "ParallelCoordinatesPlot"}
    assert all(panel.x == AXIS and (panel.y or panel.metric_regex) for panel in panels if hasattr(panel, "x"))

    out = tmp_path / "own.py"
    assert dashboard.main([program, "--out", str(out)]) == 0
    runpy.run_path(str(out), run_name="__main__")
    assert repr(wandb_workspaces.workspaces[1]) == repr(made)


def test_the_workspaces_have_the_agreed_panels() -> None:
    sections = {
        p: {s.name for s in dashboard.read(conf_dir() / "dashboard" / f"{p}.yaml").sections}
        for p in dashboard.programs()
    }
    assert sections["asgml"] == {"Accuracy per modality", "Staleness", "Share of losses", "Gate", "Probe gap", "Sweep"}
    assert {"Answers", "Share of losses", "Gate", "Sweep"} <= sections["latentwire"]


def test_a_sweep_is_told_apart_by_gamma_tau_and_lambda() -> None:
    definition = dashboard.read(conf_dir() / "dashboard" / "asgml.yaml")
    (sweep,) = (p for s in definition.sections for p in s.panels if isinstance(p, dashboard.Parallel))
    assert {"asgml.gamma", "asgml.tau", "asgml.lambda_comp"} <= {axis.config for axis in sweep.columns}


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["asgml", "--save", "--entity", "team"], 'pip install "wandb-workspaces>=0.4,<1"'),
        (["asgml", "--save"], "add --entity TEAM"),
        (["asgnl"], "python -m suite.dashboard asgml"),
    ],
)
def test_what_cannot_be_made_is_said_with_its_remedy(
    words: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert dashboard.main(words) == 2
    assert f"remedy:   {remedy}" in capsys.readouterr().err


def test_an_unknown_key_of_a_definition_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = (conf_dir() / "dashboard" / "asgml.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("metrics: [val/accuracy]", "metricz: [val/accuracy]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"sections\.0\.panels\.0\.lines\.metricz"):
        dashboard.read(path)


def test_the_real_package_takes_the_workspaces() -> None:
    """Where the extra `tracking` is installed; nothing is sent."""
    pytest.importorskip("wandb_workspaces")
    for program in dashboard.programs():
        definition = dashboard.read(conf_dir() / "dashboard" / f"{program}.yaml")
        assert dashboard.made(dashboard.workspace(definition, "team")).project == program
