# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .data import RunRecord as RunRecord
from .data import read_run as read_run
from .data import read_runs as read_runs
from .grouping import group_runs as group_runs
from .html import compare_report as compare_report
from .html import single_report as single_report
from .registry import ProgramReport as ProgramReport
from .registry import register as register
from .sections import Item as Item
from .sections import Section as Section
from .tables import latex as latex
from .tables import markdown as markdown
from .tables import terminal as terminal
