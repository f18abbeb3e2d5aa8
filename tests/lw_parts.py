"""Every codec and every encoder, small."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from lw_toys import save_sentence_model, tiny_lm
from torch import Tensor

from callbacks.stages.lr import LRSchedule
from latentwire.baselines.training import Amount, TrainingBudget
from latentwire.codec.base import Codec
from latentwire.codec.fp16 import FP16
from latentwire.codec.fsq import FSQ
from latentwire.codec.integer import Integer
from latentwire.codec.rvq import RVQ
from latentwire.data.base import Passage
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.byte import ByteEncoder
from latentwire.encoders.comprexit import ComprExITEncoder
from latentwire.encoders.interlingua import InterlinguaEncoder
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.pooling import ChunkMean, ChunkQueries, CrossAttention
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.st_query import STQueryEncoder
from latentwire.encoders.token import TokenEncoder
from latentwire.encoders.transport import TransportPlan
from latentwire.lm.frozen import FrozenLM

D = 12
CODECS = ("fp16", "int8", "int6", "int4", "fsq", "fsq_bare", "fsq_spare", "rvq")


def make_codec(name: str) -> Codec:
    torch.manual_seed(0)
    codec: Codec
    if name == "fp16":
        codec = FP16(D)
    elif name == "fsq":
        codec = FSQ(D, levels=[7, 5, 4], codes=3)
    elif name == "fsq_bare":
        codec = FSQ(D, levels=[8, 2, 3], codes=4, project=False)
    elif name == "fsq_spare":
        codec = FSQ(D, levels=[4], codes=5, spare=3)
    elif name == "rvq":
        codec = RVQ(D, stages=3, size=11)
        codec.train()
        for _ in range(5):
            codec(torch.randn(4, 6, D))
    else:
        codec = Integer(D, bits=int(name[3:]), group=4)
    return codec.eval()


def latents(*shape: int, seed: int = 1) -> Tensor:
    """Rows of very different size, one of zeros."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, D, generator=g) * torch.logspace(-3, 2, shape[-1]).unsqueeze(1)
    z[..., -1, :] = 0
    return z


TEXTS = ["Ada Stone lives in Oslo.", "Ben works.", "The favourite food of Ada is rice, Ben likes plums.", "é漢🙂"]
D_Z = 6
SHARED = LatentLayout(4)
SMALL = dict(width=16, refiner_layers=1, heads=2)


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lw-parts-")


def sentence_folder() -> str:
    """Folder of a tiny random sentence encoder, which lasts as long as this process."""
    return save_sentence_model(Path(_kept().name))


def _st_query(d_z: int, slices: Sequence[str], **settings: object) -> Encoder:
    return STQueryEncoder(d_z, slices, source=sentence_folder(), **settings)  # type: ignore[arg-type]


def _anchored(lm: FrozenLM, d_z: int, slices: Sequence[str], **settings: object) -> Encoder:
    return InterlinguaEncoder(lm, d_z, slices, anchor_source=sentence_folder(), **settings)  # type: ignore[arg-type]


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "token": partial(TokenEncoder, pooling=ChunkMean, layers=1, **SMALL),
    "lm_hidden": partial(LMLoRAEncoder, pooling=ChunkMean, rank=0, max_tokens=200, **SMALL),
    "lm_lora": partial(LMLoRAEncoder, pooling=ChunkMean, rank=2, max_tokens=200, **SMALL),
    "byte": partial(ByteEncoder, pooling=partial(CrossAttention, heads=2), layers=1, **SMALL),
    "byte_gated": partial(ByteEncoder, pooling=partial(ChunkQueries, heads=2), layers=1, gate=True, **SMALL),
    "comprexit": partial(ComprExITEncoder, pooling=TransportPlan, max_tokens=200, **SMALL),
    "interlingua": partial(InterlinguaEncoder, pooling=ChunkMean, layers=1, max_tokens=200, **SMALL),
    "anchored": partial(_anchored, pooling=ChunkMean, layers=1, max_tokens=200, **SMALL),
    "halting": partial(LMLoRAEncoder, pooling=ChunkMean, rank=0, max_tokens=200, halting=True, **SMALL),
    "st_query": partial(_st_query, pooling=partial(ChunkQueries, heads=2), max_tokens=200, **SMALL),
    "pca": partial(PCAEncoder, chunk=16),
}
TRAINED = [name for name in ENCODERS if name != "pca"]


def make_encoder(
    name: str, lm: FrozenLM | None = None, slices: tuple[str, ...] = ("shared",), **settings: object
) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(partial(ENCODERS[name], **settings), lm or tiny_lm(), D_Z, slices)
    encoder.fit(TEXTS, SHARED)
    return encoder.eval()


def rms(z: Tensor) -> Tensor:
    return z.pow(2).mean().sqrt()


def lessons(train: Sequence[Passage], steps: int, val: Sequence[Passage] | None = None, per_epoch: int = 20, **changes):
    """A budget of `steps` steps on four contexts with one question each, validated on `val` or the same passages."""
    given = dict(schedule=LRSchedule(), seed=0, metric="nll", max_new_tokens=4, data="toy") | changes
    amount = Amount(steps, 4, 1, 4 * steps)
    return TrainingBudget(train, train if val is None else val, 1, amount, per_epoch, **given)  # type: ignore[arg-type]
