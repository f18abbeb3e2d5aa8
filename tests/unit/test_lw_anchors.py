"""The study of anchors: what stands around latents is laid out as its setting says, and a reader is left as it was."""

from __future__ import annotations

import pytest
import torch

from latentwire import anchors
from latentwire.data.biographies import Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket import load


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return load("pocket_llama")


def test_anchors_stand_where_their_setting_says(lm: FrozenLM) -> None:
    z = torch.zeros(3, lm.d_model)
    before, behind, bos = (lm.embed(torch.tensor(i)) for i in (
        lm.style.encode(anchors.BEFORE), lm.style.encode(anchors.BEHIND), lm.style.head
    ))  # fmt: skip
    for setting, expected in (
        (anchors.Setting(), [z]),
        (anchors.Setting("before"), [before, z]),
        (anchors.Setting("both"), [before, z, behind]),
        (anchors.Setting("behind", "mean"), [z, behind.mean(0, keepdim=True)]),
        (anchors.Setting("before", bos=(True, True)), [before, z, bos]),
    ):
        torch.testing.assert_close(anchors.around(lm, z, setting, lm.style.head), torch.cat(expected))


def test_chunks_are_means_and_the_last_one_may_be_short() -> None:
    x = torch.arange(10.0).view(5, 2)
    torch.testing.assert_close(anchors.chunked(x, 2), torch.stack([x[:2].mean(0), x[2:4].mean(0), x[4]]))
    torch.testing.assert_close(anchors.chunked(x, 1), x)


def test_a_reader_has_its_head_again_also_after_an_error(lm: FrozenLM) -> None:
    head = lm.style.head

    def fail() -> None:
        with anchors.headless(lm, True):
            assert lm.style.head == ()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lm.style.head == head != ()


def test_own_embeddings_with_the_reader_s_head_read_as_the_text_and_the_verdict_names_what_moves(lm: FrozenLM) -> None:
    split = Biographies(people=1, facts_per_person=2, test=3).split("test")
    found = anchors.measure(lm, [split[i] for i in range(3)], n_boot=50)
    own = found["own"][str(anchors.BASE)]
    assert own["f1"] == 1.0
    assert found["own"]["anchor before, tokens, BOS at 0"]["nll"] != own["nll"]
    assert len({r["nll"] for r in found["own"].values()}) == len(anchors.SETTINGS)  # no two settings are one
    moved = found["own"] | {"anchor x": own | {"delta": -0.5, "low": -0.6, "high": -0.4}}
    assert "anchor x (−50.0 [−60.0, −40.0])" in anchors.verdict({"tiny": {"own": moved}})
    unread = {name: row | {"f1": 0.02} for name, row in moved.items()}
    assert anchors.verdict({"tiny": {"means": unread}}).endswith("nothing is decided there.\n")
    assert "## `tiny`" in anchors.page({"tiny": found}, 3)
