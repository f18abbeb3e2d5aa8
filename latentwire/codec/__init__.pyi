# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Codec as Codec
from .base import Coded as Coded
from .base import Payload as Payload
from .base import straight_through as straight_through
from .fp16 import FP16 as FP16
from .fsq import FSQ as FSQ
from .integer import Integer as Integer
from .rvq import RVQ as RVQ
