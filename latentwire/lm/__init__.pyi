# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .decoding import Decoding as Decoding
from .frozen import FrozenLM as FrozenLM
from .layout import Prefix as Prefix
from .lora import LoRA as LoRA
