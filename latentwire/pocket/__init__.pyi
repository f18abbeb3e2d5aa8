# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .architecture import Architecture as Architecture
from .architecture import load as load
from .stories260k import load_stories260k as load_stories260k
from .training import Pocket as Pocket
from .training import Recipe as Recipe
from .training import Vocabulary as Vocabulary
