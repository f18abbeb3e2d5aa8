# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .buffers import AmpScaledBuffer as AmpScaledBuffer
from .buffers import InvertedCompensationBuffer as InvertedCompensationBuffer
from .buffers import OffByOneBuffer as OffByOneBuffer
from .gate import AllGroupsGate as AllGroupsGate
from .masks import InPhaseMask as InPhaseMask
from .masks import ZeroedGradientsMask as ZeroedGradientsMask
from .signals import ClampedDescentTracker as ClampedDescentTracker
from .signals import ZeroStartProbe as ZeroStartProbe
from .signals import ZeroStartTracker as ZeroStartTracker
