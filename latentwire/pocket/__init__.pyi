# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .architecture import Architecture as Architecture
from .architecture import load as load
