# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Injector as Injector
from .combined import Combined as Combined
from .coprocessor import Coprocessor as Coprocessor
from .deep_prefix import DeepPrefix as DeepPrefix
from .latent_adapters import LatentAdapters as LatentAdapters
from .sized_prefix import SizedPrefix as SizedPrefix
from .soft_prefix import SoftPrefix as SoftPrefix
