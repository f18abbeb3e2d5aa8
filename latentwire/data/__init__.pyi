# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Corpus as Corpus
from .base import Passage as Passage
from .base import Question as Question
from .biographies import Biographies as Biographies
from .continuations import JsonLines as JsonLines
from .continuations import TextFolder as TextFolder
from .planted import LostAlongTheWay as LostAlongTheWay
from .planted import LostByTheBoundary as LostByTheBoundary
from .planted import LostIfSurprising as LostIfSurprising
from .qa import QuestionAnswering as QuestionAnswering
from .squad import Squad as Squad
from .stories import Stories as Stories
