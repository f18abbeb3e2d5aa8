"""Generated surfaces: the mask is where something changed, and difficulty makes it harder to see."""

from __future__ import annotations

import numpy as np
import pytest

from asgml.feedback.data.generator import DEFECTS, surface_with_defect
from asgml.feedback.data.textures import TEXTURES

SIZE = 48


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("name", TEXTURES)
def test_nothing_changes_outside_of_the_mask_and_something_does_within(name, defect):
    for i in range(4):
        clean, nowhere = surface_with_defect(name, "good", SIZE, 0.3, (7, i))
        shown, mask = surface_with_defect(name, defect, SIZE, 0.3, (7, i))
        changed = (clean != shown).any(2)
        assert not nowhere.any()
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.9
        assert 0.0005 < mask.mean() < 0.25
        assert shown.min() >= 0
        assert shown.max() <= 1


@pytest.mark.parametrize("defect", DEFECTS)
def test_difficulty_takes_contrast_and_size(defect):
    def visible(difficulty: float) -> tuple[float, float]:
        contrasts, sizes = [], []
        for i in range(6):
            clean, _ = surface_with_defect("weave", "good", SIZE, difficulty, (1, i))
            shown, mask = surface_with_defect("weave", defect, SIZE, difficulty, (1, i))
            contrasts.append(np.abs(shown - clean)[mask].mean())
            sizes.append(mask.mean())
        return float(np.mean(contrasts)), float(np.mean(sizes))

    easy, hard = visible(0.0), visible(1.0)
    assert easy[0] > 1.5 * hard[0]
    assert easy[1] > 1.2 * hard[1]
