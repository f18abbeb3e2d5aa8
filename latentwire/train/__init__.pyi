# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .criterion import Criterion as Criterion
from .curriculum import Constant as Constant
from .curriculum import Cosine as Cosine
from .curriculum import Delayed as Delayed
from .curriculum import Gated as Gated
from .curriculum import Linear as Linear
from .curriculum import PeakAndDecay as PeakAndDecay
from .curriculum import Period as Period
from .curriculum import Schedule as Schedule
from .nested import Nested as Nested
from .nested import NestedBudgets as NestedBudgets
from .nested import NestedGeometric as NestedGeometric
from .objective_norms import ObjectiveNorms as ObjectiveNorms
from .ratios import SeveralRatios as SeveralRatios
from .sampling import ScheduledSampling as ScheduledSampling
from .slot_dropout import SlotDropout as SlotDropout
from .text_warm_up import TextWarmUp as TextWarmUp
