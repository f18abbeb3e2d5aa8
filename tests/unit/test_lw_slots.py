"""Slots: who reads which, and who changes which."""

from __future__ import annotations

import json

import pytest
import torch
from lw_parts import D_Z, TEXTS, TRAINED, make_encoder

from callbacks.errors import UserError
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.pooling import ChunkMean
from latentwire.encoders.slots import LatentLayout

LAYOUT = LatentLayout(3, {"a": 2, "b": 1})


@pytest.mark.parametrize("name", TRAINED)
def test_private_slots_belong_to_their_model(name: str) -> None:
    encoder = make_encoder(name, slices=("shared", "a", "b"))
    z = encoder.encode(TEXTS, LAYOUT)
    assert z.shape == (len(TEXTS), 6, D_Z)
    assert not torch.allclose(z[:, 3], z[:, 0], atol=1e-3)
    for p in encoder.parameters():
        p.grad = None
    LAYOUT.read(encoder.encode(TEXTS, LAYOUT), "a").sum().backward()
    outputs = encoder.bottleneck.outputs
    assert [o.weight.grad is not None and bool(o.weight.grad.abs().sum() > 0) for o in outputs] == [True, True, False]


def test_a_layout_names_who_reads_what() -> None:
    assert (LAYOUT.slots, LAYOUT.parts) == (6, [("shared", 3), ("a", 2), ("b", 1)])
    assert (LAYOUT.indices("a"), LAYOUT.indices("b")) == ([0, 1, 2, 3, 4], [0, 1, 2, 5])
    z = torch.arange(6.0).view(1, 6, 1)
    assert LAYOUT.read(z, "b").flatten().tolist() == [0, 1, 2, 5]
    assert LatentLayout(2).indices("anything") == [0, 1]
    assert LAYOUT.with_slots(4).indices("b") == [0, 3], "four in all, three of them private"


def test_a_model_that_came_later_reads_the_shared_slots_of_the_same_messages() -> None:
    later = LatentLayout(3, {"a": 2, "b": 1, "new": 0})
    assert later.indices("new") == [0, 1, 2]
    assert later.identity() == LAYOUT.identity()
    with pytest.raises(UserError, match=r"private\.new=0"):
        LAYOUT.indices("new")


def test_slices_in_another_order_are_another_wire() -> None:
    turned = LatentLayout(3, {"b": 1, "a": 2})
    told = [json.dumps(own.identity(), sort_keys=True) for own in (LAYOUT, turned)]
    assert told[0] != told[1], "messages of one would be read with the slots of two readers swapped"


@pytest.mark.parametrize("wrong", [(0, {}), (-1, {"a": 2}), (2, {"shared": 1}), (2, {"a": -1})])
def test_impossible_layouts_are_refused(wrong) -> None:
    with pytest.raises(UserError):
        LatentLayout(*wrong)


def test_unknown_slices_are_refused() -> None:
    with pytest.raises(UserError, match="a selection of"):
        make_encoder("byte", slices=("shared", "a")).encode(TEXTS, LAYOUT)
    with pytest.raises(UserError, match="in this order"):
        make_encoder("byte", slices=("shared", "b", "a")).encode(TEXTS, LAYOUT)
    with pytest.raises(UserError, match="no slot to read"):
        LatentLayout(0, {"a": 1, "b": 0}).indices("b")


def test_the_refiner_lets_slots_see_each_other() -> None:
    def changed(layers: int) -> bool:
        torch.manual_seed(0)
        b = Bottleneck(4, D_Z, ["shared"], ChunkMean, 16, layers, 2, 0.0)
        x, mask = torch.randn(1, 4, 4), torch.ones(1, 4, dtype=torch.bool)
        y = x.clone()
        y[:, 3] += 1
        return not torch.allclose(b(x, mask, LatentLayout(4))[:, 0], b(y, mask, LatentLayout(4))[:, 0])

    assert [changed(0), changed(1)] == [False, True]
