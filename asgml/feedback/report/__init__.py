"""Reports of feedback runs; importing this package registers them with `suite.report`."""

from asgml.feedback.report.sections import FEEDBACK
from asgml.feedback.report.tables import score, tables, verdict
from suite.report import ProgramReport, register

register("asgml.feedback", ProgramReport(FEEDBACK, tables, verdict, score=score))
