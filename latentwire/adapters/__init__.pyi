# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .affine import AffineAdapter as AffineAdapter
from .base import Adapter as Adapter
from .channel_affine import ChannelAffineAdapter as ChannelAffineAdapter
from .film import FiLMAdapter as FiLMAdapter
from .linear import LinearAdapter as LinearAdapter
from .mixture import MixtureAdapter as MixtureAdapter
from .mlp import MLPAdapter as MLPAdapter
from .refiner import RefinerAdapter as RefinerAdapter
from .task import TaskAdapter as TaskAdapter
from .whitened import WhitenedAdapter as WhitenedAdapter
