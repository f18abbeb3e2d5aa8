# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Needs as Needs
from .base import Objective as Objective
from .base import ObjectiveOutput as ObjectiveOutput
from .base import ReaderShape as ReaderShape
from .base import Seen as Seen
from .contrast import MismatchHinge as MismatchHinge
from .distillation import AnswerKD as AnswerKD
from .likelihood import AnswerCE as AnswerCE
from .likelihood import Continuation as Continuation
from .likelihood import FirstTokenCE as FirstTokenCE
from .likelihood import KTokenCE as KTokenCE
from .likelihood import TextReconstruction as TextReconstruction
from .reconstruction import EmbeddingReconstruction as EmbeddingReconstruction
from .states import StateRegression as StateRegression
