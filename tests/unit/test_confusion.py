"""The confusion matrix of a report: its counts, its names, and when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from synthetic_runs import JOINT, OGM_GE, as_read, write_run

from asgml.report.confusion import confusion
from suite.report.data import read_runs
from suite.report.grouping import group_runs
from suite.report.html import render

NAMES = ["neutral", "happy", "sad", "fear", "disgust", "<anger>"]


def frames_of(folder: Path) -> Any:
    (frames,) = group_runs(read_runs([folder]))
    return frames


def test_counts_are_those_of_the_predictions_of_all_seeds(tmp_path: Path) -> None:
    expected = {"joint": np.zeros((6, 6), int), "ogm_ge": np.zeros((6, 6), int)}
    for label, kind in (("joint", JOINT), ("ogm_ge", OGM_GE)):
        for seed in range(2):
            more = {"classes": NAMES}
            folder = write_run(tmp_path, kind, seed, label=label, epochs=1, history=False, more=more)
            with np.load(folder / "predictions_best.npz") as kept:
                for y, prob, split in zip(kept["y"], kept["prob"], kept["split"], strict=True):
                    expected[label][y, prob.argmax()] += int(split == 2)
    frames = frames_of(tmp_path)
    (item,) = confusion(frames)
    assert [label for label, _ in item.body] == ["joint", "ogm_ge"]
    for label, figure in item.body:
        (trace,) = go.Figure(figure).data
        total = expected[label].sum(1, keepdims=True)
        np.testing.assert_allclose(trace.z, expected[label] / total)
        assert trace.text[1][2] == f"happy → sad: {expected[label][1, 2]} of {total[1, 0]}"
        assert list(figure["layout"]["xaxis"]["ticktext"]) == [*NAMES[:5], "&lt;anger&gt;"]
    assert "added up over seeds" in item.caption
    assert "Confusion matrix" in as_read(render([frames]))


@pytest.mark.parametrize("classes", [40, 41])
def test_many_classes_have_no_matrix(classes: int, tmp_path: Path) -> None:
    path = write_run(tmp_path, JOINT, 0, epochs=1, history=False) / "predictions_best.npz"
    arrays = dict(np.load(path))
    wide = np.zeros((90, classes))
    wide[:, :6] = arrays["prob"]
    np.savez(path, **{**arrays, "prob": wide})
    assert len(confusion(frames_of(tmp_path))) == (classes == 40)


def test_without_predictions_the_report_says_what_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path, JOINT, 0, epochs=1, predictions=False)
    assert "Confusion matrix : no class predictions of a test split in predictions_best.npz" in as_read(
        render([frames_of(tmp_path)])
    ).replace("  ", " ")
