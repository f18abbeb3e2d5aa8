# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .processes import Processes as Processes
from .slurm import Slurm as Slurm
