"""A gate that wants a gradient in every group stops training silently: empty groups are legitimate."""

from __future__ import annotations

import pytest
from toys import asgml, same, toy_batches, toy_spec, train

from asgml.methods.joint import Joint
from asgml.methods.unimodal import Unimodal

CASES = {
    "an encoder masked on most steps": (asgml("frequency", k=5, masking="hard"), None, {}),
    "an encoder that waits for its first stale gradient": (asgml("staleness", tau=4), None, {}),
    "a modality missing from every second batch": (asgml(), None, {i: ["audio"] for i in range(0, 8, 2)}),
    "an encoder that a method leaves out": (asgml(), {"unimodal": Unimodal("visual")}, {}),
    "a frozen encoder, now and then missing": (asgml(), {"joint": Joint()}, {3: ["audio"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_taken_although_a_group_is_empty(case):
    config, methods, missing = CASES[case]
    frozen = ["audio"] if "frozen" in case else []
    run = train(config, toy_batches(8, toy_spec(), missing=missing), methods=methods, frozen=frozen)
    assert (run.pipeline.t, run.pipeline.vetoed) == (8, 0)
    assert not same(run.trace.start, run.final, "net.encoders.visual")
