"""The `asgml` node: which modalities it concerns, what it refuses, which keys have no effect (specification A2)."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
from toys import asgml

from asgml.rhythm.config import Adaptive, dead_keys
from callbacks.errors import UserError

THREE = ["audio", "visual", "text"]


@pytest.mark.parametrize(
    ("delayed", "names"),
    [("dominant", ["visual"]), ("all", THREE), (["text", "audio"], ["text", "audio"]), ("text", ["text"])],
)
def test_whom_one_number_speaks_of(delayed, names):
    config = asgml("staleness", tau=3, k=2, delayed=delayed)
    assert config.chosen(THREE, "visual") == names
    assert config.taus(THREE, "visual") == {m: 3 if m in names else 0 for m in THREE}
    if delayed != "all":  # three with k 2 is fine as well, but then nobody has k 1
        assert config.ks(THREE, "visual") == {m: 2 if m in names else 1 for m in THREE}


def test_a_mapping_is_taken_as_it_is_and_the_rest_is_not_delayed():
    assert asgml("staleness", tau={"text": 4}).taus(THREE, "audio") == {"audio": 0, "visual": 0, "text": 4}
    assert asgml("frequency", k={"text": 4}).ks(THREE, "audio") == {"audio": 1, "visual": 1, "text": 4}


def test_one_modality_dominates_by_itself():
    assert asgml("staleness").chosen(["audio"], None) == ["audio"]


def test_a_dominant_modality_that_nobody_names_is_waited_for():
    """Until the probes have found it, nobody is delayed; a delay of 0 or one per modality waits for nobody."""
    for config in (asgml("staleness"), asgml("frequency"), asgml("staleness", control="scale_only")):
        assert config.waits(THREE, None)
        assert not config.waits(THREE, "audio")
        assert not config.waits(["audio"], None)
        assert config.taus(THREE, None) == dict.fromkeys(THREE, 0)
        assert config.ks(THREE, None) == dict.fromkeys(THREE, 1)
    for config in (
        asgml("sync"),
        asgml("boost"),
        asgml("adaptive"),
        asgml("staleness", tau=0),
        asgml("frequency", k=1),
        asgml("staleness", tau={"audio": 2}),
        asgml("staleness", delayed=["audio"]),
        asgml("staleness", delayed="all"),
        asgml("staleness", control="all_delayed"),
    ):
        assert not config.waits(THREE, None)


@pytest.mark.parametrize(
    ("config", "dominant", "message"),
    [
        (asgml("staleness", tau=-1), None, "a delay in steps, 0 or more"),
        (asgml("frequency", k=0), None, "k >= 1"),
        (asgml("frequency", k=3, phases={"audio": 1}), None, "phases"),
        (asgml("staleness"), "depth", r"only \['audio', 'visual', 'text'\] are trained here"),
        (asgml("staleness", delayed=["visul"]), None, "write 'visual' in place of 'visul'"),
        (asgml("staleness", tau={"Text": 1}), None, "asgml.tau"),
        (asgml("frequency", k={"speech": 2}), None, "write 'audio' in place of 'speech'"),
        (asgml("staleness", tau=-1), "audio", "a delay in steps, 0 or more"),
        (asgml("frequency", k=0), "audio", "k >= 1"),
        (asgml("frequency", k=5, delayed="all"), "audio", "leave no step idle"),
    ],
)
def test_what_has_no_meaning_is_refused(config, dominant, message):
    with pytest.raises(UserError, match=message):
        (config.taus if config.mode == "staleness" else config.ks)(THREE, dominant)


@pytest.mark.parametrize(
    "options",
    [
        {"tau_min": -1},
        {"tau_min": 3, "tau_max": 2},
        {"kappa": 0.5},
        {"update_every": 0},
        {"gap_full": 0.0},
        {"window": 1},
        {"blend_weight": 1.5},
    ],
)
def test_a_schedule_without_meaning_is_refused(options):
    with pytest.raises(UserError, match=r"asgml\.adaptive"):
        Adaptive(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": -1.0},
        {"gamma": math.inf},
        {"lambda_comp": math.nan},
        {"mu": -0.1},
        {"soft_scale": 2.0},
        {"soft_scale": math.nan},
        {"delayed": []},
        {"delayed": ""},
    ],
)
def test_values_without_meaning_are_refused(options):
    with pytest.raises(UserError, match=rf"asgml\.{next(iter(options))}"):
        asgml(**options)


@pytest.mark.parametrize(
    ("mode", "options", "reads"),
    [
        ("sync", {}, False),
        ("staleness", {}, False),
        ("boost", {}, True),
        ("staleness", {"boost": {"enabled": True}}, True),
        ("adaptive", {}, True),
        ("adaptive", {"adaptive": {"signal": "speed"}}, False),
        ("adaptive", {"adaptive": {"signal": "theory", "kind": "frequency"}}, False),
    ],
)
def test_who_reads_the_probes(mode, options, reads):
    assert asgml(mode, **options).uses_probes is reads


def dead(mode: str, **options) -> set[str]:
    return {k.removeprefix("asgml.") for k in dead_keys(asdict(asgml(mode, **options)))}


@pytest.mark.parametrize(
    ("mode", "options", "some_dead", "some_alive"),
    [
        ("sync", {}, {"tau", "k", "delayed", "through", "masking", "adaptive.kappa", "boost.alpha"}, {"gamma", "mode"}),
        ("staleness", {}, {"k", "masking", "mu", "adaptive.tau_max"}, {"tau", "lambda_comp", "delayed", "through"}),
        ("staleness", {"compensation": "none"}, {"lambda_comp", "mu", "through"}, {"tau", "compensation"}),
        ("staleness", {"compensation": "delay_compensated"}, {"lambda_comp", "through"}, {"mu"}),
        ("frequency", {}, {"tau", "warmup", "lambda_comp", "through"}, {"k", "masking", "soft_scale", "phases"}),
        ("frequency", {"masking": "hard"}, {"soft_scale"}, {"k"}),
        ("adaptive", {}, {"tau", "k", "delayed", "phases"}, {"adaptive.tau_max", "warmup", "adaptive.beta"}),
        ("adaptive", {"adaptive": {"signal": "speed"}}, {"adaptive.ceilings"}, {"adaptive.window"}),
        ("adaptive", {"adaptive": {"signal": "utilisation"}}, {"adaptive.beta"}, {"adaptive.ceilings"}),
        ("adaptive", {}, {"adaptive.blend_weight"}, {"adaptive.beta", "adaptive.gap_full"}),
        ("adaptive", {"adaptive": {"signal": "blend"}}, {"tau"}, {"adaptive.blend_weight", "adaptive.beta"}),
        (
            "adaptive",
            {"adaptive": {"signal": "theory", "kind": "frequency"}},
            {"adaptive.beta", "adaptive.ema", "adaptive.gap_full", "adaptive.ceilings", "adaptive.tau_base"},
            {"adaptive.window", "adaptive.tau_max", "adaptive.kappa", "masking", "soft_scale"},
        ),
        ("boost", {}, {"tau", "through"}, {"boost.alpha", "boost.relative", "boost.gap_full"}),
        (
            "boost",
            {"boost": {"relative": True}},
            {"boost.threshold_delta", "boost.gap_full"},
            {"boost.alpha", "boost.cap"},
        ),
        ("frequency", {"control": "lr_matched"}, {"phases"}, {"k", "masking", "soft_scale", "through"}),
        ("frequency", {"control": "lr_matched", "masking": "hard"}, {"soft_scale"}, {"k", "masking", "through"}),
        ("staleness", {"control": "scale_only"}, {"warmup"}, {"tau", "lambda_comp"}),
    ],
)
def test_keys_without_effect_are_known(mode, options, some_dead, some_alive):
    found = dead(mode, **options)
    assert some_dead <= found
    assert not some_alive & found
