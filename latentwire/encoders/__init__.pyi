# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .base import Encoder as Encoder
from .base import Overflow as Overflow
from .base import Tokens as Tokens
from .byte import ByteEncoder as ByteEncoder
from .lm_lora import LMLoRAEncoder as LMLoRAEncoder
from .pca import PCAEncoder as PCAEncoder
from .pool_expand import PoolExpand as PoolExpand
from .pooling import ChunkMean as ChunkMean
from .pooling import ChunkQueries as ChunkQueries
from .pooling import CrossAttention as CrossAttention
from .pooling import Hierarchical as Hierarchical
from .pooling import StridedConv as StridedConv
from .pooling import chunk_mean as chunk_mean
from .slots import LatentLayout as LatentLayout
from .st_query import STQueryEncoder as STQueryEncoder
from .token import TokenEncoder as TokenEncoder
