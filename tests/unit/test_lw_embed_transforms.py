"""The study of transforms: nothing changed reads as the text, and the page says what its rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentwire import embed_transforms as study
from latentwire.data.biographies import Biographies
from latentwire.pocket import load


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    split = Biographies(people=1, facts_per_person=2, test=4).split("test")
    return study.measure(load("pocket_llama"), [split[i] for i in range(4)], n_boot=50)


def test_embeddings_without_a_transform_read_as_the_text(found: dict[str, dict[str, Any]]) -> None:
    assert found[study.UNCHANGED]["nll"] == pytest.approx(found[study.TEXT]["nll"], abs=1e-5)
    assert (found[study.UNCHANGED]["cosine"], found[study.UNCHANGED]["rms"]) == (pytest.approx(1), pytest.approx(1))


def test_every_transform_changes_what_is_read(found: dict[str, dict[str, Any]]) -> None:
    assert found[study.RMS]["spread"] == pytest.approx(0, abs=1e-4)
    assert found["whitening"]["nll"] > found[study.UNCHANGED]["nll"] + 1
    assert found["nearest token"]["nll"] == pytest.approx(found[study.UNCHANGED]["nll"], abs=1e-4)


def test_the_verdict_follows_from_the_intervals(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    worse = found | {study.RMS: found[study.RMS] | {"delta": -0.4, "low": -0.5, "high": -0.3}}
    assert "vocabulary's RMS costs: −40.0 [−50.0, −30.0] points" in study.verdict({"tiny": worse})
    same = found | {study.RMS: found[study.RMS] | {"delta": 0.0, "low": -0.1, "high": 0.1}}
    assert "neither costs nor gains" in study.verdict({"tiny": same})
    assert "## `tiny`" in study.page({"tiny": found}, 4)
