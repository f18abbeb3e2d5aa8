# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .config import Adaptive as Adaptive
from .config import Asgml as Asgml
from .config import Boost as Boost
from .parts import RhythmParts as RhythmParts
