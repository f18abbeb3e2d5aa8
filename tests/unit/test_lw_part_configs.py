"""The configuration of every encoder, pooling, adapter, injector and codec builds its part."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lw_parts import TEXTS, sentence_folder
from lw_toys import tiny_lm

from latentwire.adapters.linear import LinearAdapter
from latentwire.encoders.base import build_encoder
from latentwire.encoders.slots import LatentLayout
from suite.config.check import check
from suite.config.instantiate import build_node

CONF = Path(__file__).parents[2] / "conf" / "latentwire"


def parts() -> list[str]:
    groups = ("encoder", "pooling", "adapter", "injector", "codec")
    return [f"{group}/{path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", parts())
def test_every_configuration_builds_its_part(choice: str) -> None:
    group = choice.split("/")[0]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(choice)
    check(cfg)
    factory = build_node(cfg[group])
    lm = tiny_lm()
    if group == "encoder":
        given = {"source": sentence_folder()} if "source" in cfg.encoder else {}
        encoder = build_encoder(partial(factory, max_tokens=128, **given), lm, 32, ["shared", "a"])
        encoder.fit([f"{t} {i}" for t in TEXTS for i in range(9)], LatentLayout(16))
        assert encoder.encode(TEXTS, LatentLayout(16)).shape == (len(TEXTS), 16, 32)
    elif group == "pooling":
        assert factory(d=32, slices=2)(torch.randn(1, 9, 32), torch.ones(1, 9, dtype=torch.bool), [2, 1]).shape == (
            1,
            3,
            32,
        )
    elif group == "adapter":
        adapter = factory(d_z=32, d_out=32, target=0.1)
        adapter.calibrate(torch.randn(2, 3, 32))
        assert adapter(torch.randn(2, 3, 32)).shape == (2, 3, 32)
    elif group == "injector":
        injector = factory(d_z=32, lm=lm, texts=TEXTS, adapter=LinearAdapter)
        injector.calibrate(torch.randn(2, 3, 32))
        injector(torch.randn(2, 3, 32))
    else:
        codec = factory(d_z=32).train()
        z = torch.randn(8, 40, 32)
        codec(z)
        codec.eval()
        assert codec.decode(codec.encode(z[0]), 40).shape == (40, 32)


def test_the_pooling_of_an_encoder_is_chosen_by_one_override() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("encoder/byte", overrides=["pooling@encoder.pooling=hierarchical"])
    assert cfg.encoder.pooling._target_ == "latentwire.encoders.Hierarchical"
