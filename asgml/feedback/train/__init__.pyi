# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .data import SurfaceData as SurfaceData
from .module import FeedbackModule as FeedbackModule
from .stage_clock import StageClock as StageClock
from .stages import Plan as Plan
