"""Reports of asgml's runs; importing this package registers them with `suite.report`."""

from asgml.report.health import health_table
from asgml.report.measured import aside, measured_on
from asgml.report.multimodal import MULTIMODAL
from asgml.report.naming import LABELS
from asgml.report.results import score, tables
from asgml.report.verdict import verdict
from suite.report import ProgramReport, register

register("asgml", ProgramReport(MULTIMODAL, tables, verdict, health_table, LABELS, score, measured_on, aside))
