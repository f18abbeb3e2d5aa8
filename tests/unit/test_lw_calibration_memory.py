"""Measuring and fitting on many texts takes the memory of a few, and finds what all at once would."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lw_parts import ENCODERS, make_codec
from lw_toys import tiny_lm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentwire.adapters.mlp import MLPAdapter
from latentwire.encoders.base import build_encoder
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.slots import LatentLayout
from latentwire.injectors.base import Injector
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.wire import LatentWire

D_Z, SLOTS = 12, 4
MODULES = (
    "latentwire.wire",
    "latentwire.adapters.base",
    "latentwire.encoders.pca",
    "latentwire.injectors.deep_prefix",
    "latentwire.injectors.soft_prefix",
)
INJECTORS = {"soft": SoftPrefix, "deep": partial(DeepPrefix, width=16)}


def texts(n: int) -> list[str]:
    return [f"{'Ada' if i % 2 else 'Ben'} number {i % 7} likes {'plums' if i % 3 else 'rice'}" for i in range(n)]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *found])
        return out


def calibrated(injector: str, encoder: str, n: int) -> LatentWire:
    """A wire whose scales and maps are found on n texts."""
    lm = tiny_lm()
    torch.manual_seed(0)
    part = build_encoder(ENCODERS[encoder], lm, D_Z, ["shared"])
    injectors: dict[str, Injector] = {"tiny": INJECTORS[injector](D_Z, lm, texts(n), MLPAdapter)}
    wire = LatentWire(part, make_codec("fsq"), injectors, LatentLayout(SLOTS), {})
    wire.encoder.fit(texts(n), wire.layout)
    wire.calibrate(texts(n))
    return wire


def at_once(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    for module in MODULES:
        monkeypatch.setattr(f"{module}.AT_ONCE", n)


def largest(injector: str, encoder: str, n: int) -> int:
    with Largest() as found:
        calibrated(injector, encoder, n)
    return found.numbers


@pytest.mark.parametrize(("injector", "encoder"), [("soft", "token"), ("deep", "lm_hidden")])
def test_no_tensor_grows_with_the_number_of_texts(injector: str, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = largest(injector, encoder, 8)
    assert largest(injector, encoder, 32) == few
    at_once(monkeypatch, 1000)
    assert largest(injector, encoder, 32) > 1.9 * few


@pytest.mark.parametrize(("injector", "encoder"), [("soft", "token"), ("deep", "lm_hidden")])
def test_batches_find_what_all_texts_at_once_would(
    injector: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = calibrated(injector, encoder, 21).state_dict()
    at_once(monkeypatch, 1000)
    for name, value in calibrated(injector, encoder, 21).state_dict().items():
        torch.testing.assert_close(batched[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("chunk", [1, 8])
def test_principal_components_need_no_more_for_more_texts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token of 32 numbers a chunk: the covariance; eight tokens, 256 numbers: the Gram matrix of fewer chunks."""

    def fitted(n: int) -> PCAEncoder:
        encoder = PCAEncoder(tiny_lm(), d_z=5, chunk=chunk)
        encoder.fit(texts(n), LatentLayout(32))
        return encoder

    found = []
    for n in (40, 120):
        with Largest() as memory:
            fitted(n)
        found.append(memory.numbers)
    assert found[0] == found[1]
    few, many = 6, fitted(40)
    batched = [fitted(few).state_dict(), many.state_dict()]
    at_once(monkeypatch, 1000)
    for encoder, state in zip((fitted(few), fitted(40)), batched, strict=True):
        torch.testing.assert_close(encoder.state_dict(), state, rtol=1e-5, atol=1e-5)
