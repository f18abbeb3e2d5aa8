"""Reports of wires; importing this package registers them with `suite.report`."""

from latentwire.report.verdict import verdict
from latentwire.report.wires import WIRES, wire_tables
from suite.report import ProgramReport, register

register("latentwire", ProgramReport(WIRES, wire_tables, verdict))
