"""Methods on fusions without parts of the logits: they act on them, or on the unimodal heads in their place."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from toys import Capture, asgml, same, toy_batches, toy_spec, train

from asgml.methods.agm import AGM
from asgml.methods.amst import AMST
from asgml.methods.arl import ARL
from asgml.methods.base import Method
from asgml.methods.cggm import CGGM
from asgml.methods.dgl import DGL
from asgml.methods.joint import Joint
from asgml.methods.mla import MLA
from asgml.methods.mmcosine import MMCosine
from asgml.methods.mmpareto import MMPareto
from asgml.methods.ogm_ge import OGMGE
from asgml.methods.opm import OPM
from asgml.methods.reconboost import ReconBoost
from asgml.methods.uniform import Uniform
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.mlp import ConcatMLP
from asgml.model.fusion.transformer import LateTransformer

FUSIONS = {
    "mlp": partial(ConcatMLP, dim=6),
    "transformer": partial(LateTransformer, dim=6, heads=2, layers=1, feedforward=8),
    "cross_attention": partial(CrossAttention, dim=6, heads=2, tokens=2),
}
METHODS: dict[str, Any] = {
    "joint": Joint,
    "uniform": Uniform,
    "ogm_ge": partial(OGMGE, kernels="all"),
    "opm": partial(OPM, begins=0),
    "agm": AGM,
    "cggm": CGGM,
    "arl": partial(ARL, begins=0),
    "amst": partial(AMST, factor=2),
    "dgl": DGL,
    "mla": MLA,
    "mmcosine": MMCosine,
    "mmpareto": MMPareto,
    "reconboost": partial(ReconBoost, stage_epochs=1, rectify_epochs=1),
}


def run(method: Method, fusion: str, modalities: int, more: Any = None) -> Any:
    spec = toy_spec(modalities)
    batches = toy_batches(4, spec, partly={1: ["visual"], 2: ["audio"]}, missing={3: ["visual"]})
    capture = [Capture(more)] if more else []
    return train(asgml(), batches, spec=spec, methods={"m": method}, fusion=FUSIONS[fusion], extra=capture, epochs=2)


@pytest.mark.parametrize(("fusion", "modalities"), [*((fusion, 3) for fusion in FUSIONS), ("cross_attention", 2)])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_encoders_and_fusion_or_leaves_the_fusion_out(name: str, fusion: str, modalities: int) -> None:
    ended = run(METHODS[name](), fusion, modalities)
    assert all(value.isfinite().all() for value in ended.final.values())
    assert ended.pipeline.vetoed == 0
    for m in ("audio", "text") if modalities == 3 else ("audio", "visual"):
        assert not same(ended.trace.start, ended.final, f"net.encoders.{m}"), m
    replaced = ended.module.net.fusion.__class__.__name__ == "Cosine"
    assert replaced == (name == "mmcosine")
    if name not in ("mla", "reconboost"):  # which do not train a fusion
        assert not same(ended.trace.start, ended.final, "net.fusion")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_reads_a_modalitys_part_of_the_logits_reads_its_head(fusion: str) -> None:
    found: list[bool] = []

    def more(module: Any) -> None:
        found.extend(torch.equal(module.step.slices(m), module.step.unimodal[m]) for m in module.step.here)

    run(OGMGE(kernels="all"), fusion, 2, more)
    assert len(found) > 8
    assert all(found)
