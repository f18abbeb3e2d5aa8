# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Baseline as Baseline
from .bm25 import BestSentence as BestSentence
from .budget import LegacyTruncation as LegacyTruncation
from .budget import TokenBudget as TokenBudget
from .budget import WholePromptBudget as WholePromptBudget
from .coded import IdByteBudget as IdByteBudget
from .coded import LMByteBudget as LMByteBudget
from .coded import LMCodedText as LMCodedText
from .coded import ZstdByteBudget as ZstdByteBudget
from .coded import ZstdText as ZstdText
from .memory import MemorySlots as MemorySlots
from .pca import PCA as PCA
from .pooled import MeanPooled as MeanPooled
from .replay import Replay as Replay
from .static import StaticPrefix as StaticPrefix
from .text import NoContext as NoContext
from .text import Text as Text
