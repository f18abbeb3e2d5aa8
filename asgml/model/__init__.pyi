# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .encoders.base import Encoder as Encoder
from .encoders.hf_text import HFTextEncoder as HFTextEncoder
from .encoders.resnet import ResNet18 as ResNet18
from .encoders.small import MLP as MLP
from .encoders.small import FrameCNN as FrameCNN
from .encoders.small import SmallCNN as SmallCNN
from .encoders.small import TemporalConv as TemporalConv
from .encoders.small import auto_encoder as auto_encoder
from .fusion.base import Fusion as Fusion
from .fusion.concat import Concat as Concat
from .fusion.film import FiLM as FiLM
from .fusion.gated import Gated as Gated
from .fusion.mlp import ConcatMLP as ConcatMLP
from .fusion.sum import Sum as Sum
from .fusion.transformer import LateTransformer as LateTransformer
from .net import MultimodalNet as MultimodalNet
