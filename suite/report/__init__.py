"""Reports: run directories in; a terminal table, an HTML page with its library beside it, Markdown and LaTeX out."""

from suite.report.data import RunRecord as RunRecord
from suite.report.data import read_run as read_run
from suite.report.data import read_runs as read_runs
from suite.report.grouping import group_runs as group_runs
from suite.report.html import compare_report as compare_report
from suite.report.html import single_report as single_report
from suite.report.registry import ProgramReport as ProgramReport
from suite.report.registry import register as register
from suite.report.sections import Item as Item
from suite.report.sections import Section as Section
from suite.report.summary import summary as summary
from suite.report.tables import latex as latex
from suite.report.tables import markdown as markdown
from suite.report.tables import terminal as terminal
