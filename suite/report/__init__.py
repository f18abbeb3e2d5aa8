"""Reports: run directories in; a terminal table, one self-contained HTML file, Markdown and LaTeX out."""

from suite.report.data import Run, read_run, read_runs
from suite.report.frames import Configuration, RunFrames, group_runs
from suite.report.html import compare_report, single_report, write
from suite.report.labels import labels
from suite.report.sections import SECTIONS, Item, Section
from suite.report.summary import TABLES, summary
from suite.report.tables import Cell, Column, Table, latex, markdown, terminal

__all__ = [
    "SECTIONS",
    "TABLES",
    "Cell",
    "Column",
    "Configuration",
    "Item",
    "Run",
    "RunFrames",
    "Section",
    "Table",
    "compare_report",
    "group_runs",
    "labels",
    "latex",
    "markdown",
    "read_run",
    "read_runs",
    "single_report",
    "summary",
    "terminal",
    "write",
]
