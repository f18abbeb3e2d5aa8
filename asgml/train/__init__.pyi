# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .best_on_test import BestOnTest as BestOnTest
from .reliance import Reliance as Reliance
