# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .answers import AnswerMonitor as AnswerMonitor
from .latents import LatentMonitor as LatentMonitor
from .uniform import UniformBound as UniformBound
