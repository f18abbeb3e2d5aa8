# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Codec as Codec
from .fp16 import FP16 as FP16
from .fsq import FSQ as FSQ
from .integer import Integer as Integer
from .rvq import RVQ as RVQ
