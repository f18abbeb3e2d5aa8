# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .adapters import Adapter as Adapter
from .clip import FrozenCLIP as FrozenCLIP
from .clip import load_clip as load_clip
from .clip import tiny_clip as tiny_clip
from .system import FeedbackModel as FeedbackModel
from .system import Layers as Layers
