"""The interlingua: an anchor that nobody trains, tokens that read it, and a message that stays near it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from kills import Kill, Killed
from lw_parts import SHARED, TEXTS, make_encoder, sentence_folder
from lw_runs import config, fit, history, prepare
from lw_toys import save_sentence_model, tiny_lm

from callbacks.errors import UserError
from latentwire.ends import Writer
from latentwire.export import export
from latentwire.objectives.base import Seen
from latentwire.objectives.said import SemanticAnchor
from latentwire.restore import load
from latentwire.train.curriculum import Constant
from suite.runs.identity import run_dir


def test_the_anchor_is_the_mean_of_standardised_states_without_the_head() -> None:
    lm = tiny_lm()
    encoder = make_encoder("interlingua", lm, anchor_layers=[0, 2]).train()
    encoder.encode(TEXTS, SHARED)
    said = encoder.said()["anchor"]
    head, states = len(lm.style.head), []
    for text in TEXTS:
        ids = torch.tensor([[*lm.style.head, *lm.style.encode(text)]])
        found = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        states.append(torch.stack([found[layer][0, head:] for layer in (0, 2)]))
    every = torch.cat(states, 1)
    mean, std = every.mean(1, keepdim=True), every.std(1, correction=0, keepdim=True)
    expected = torch.stack([((s - mean) / std).mean((0, 1)) for s in states])
    torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-4)
    assert not said.requires_grad
    assert encoder.said() == {}
    encoder.eval().encode(TEXTS, SHARED)
    assert encoder.said() == {}, "nothing is kept outside training"


def test_every_slot_reads_the_anchor() -> None:
    encoder = make_encoder("interlingua", refiner_layers=0)
    z = encoder.encode(TEXTS[:1], SHARED)
    with torch.no_grad():
        encoder.anchor.mean.add_(1.0)
    assert ((encoder.encode(TEXTS[:1], SHARED) - z).abs().amax(2) > 1e-6).all()


def test_slots_are_pooled_from_the_places_of_the_tokens() -> None:
    """Literally: the anchor stands first in the transformer and leaves before pooling."""
    lm = tiny_lm()
    encoder = make_encoder("interlingua", lm)
    pooled = []
    encoder.bottleneck.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    encoder.encode(TEXTS[:1], SHARED)
    tokens = encoder.tokenize(TEXTS[:1])
    table = lm.model.get_input_embeddings().weight
    words = encoder.of_tokens(table[tokens.ids[0]] / table.pow(2).mean().sqrt())
    row = torch.cat([encoder.of_anchor(encoder.anchor(tokens)), words])
    torch.testing.assert_close(pooled[0][0], encoder.align(row[None])[0, 1:])


def test_the_objective_is_one_minus_the_cosine_to_the_anchor() -> None:
    torch.manual_seed(0)
    objective = SemanticAnchor(Constant(1.0))
    objective.hear({"anchor": 5, "depth": 1})
    objective.prepare({}, 4)
    z, anchor = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 5)
    out = objective(Seen({}, z, lambda: (z, z), 1.0, said={"anchor": anchor}), "m")
    total = 0.0
    for i in range(3):
        made = objective.head.weight @ ((z[i, 0] + z[i, 1]) / 2) + objective.head.bias
        total += float(made @ anchor[i] / (made.norm() * anchor[i].norm()))
    assert float(out.loss) == pytest.approx(1 - total / 3, abs=1e-6)
    assert float(out.observed["anchor_cosine"]) == pytest.approx(total / 3, abs=1e-6)
    out.loss.backward()
    assert z.grad is not None
    assert bool((z.grad != 0).all())


def test_messages_move_to_their_anchors_with_both_objectives(tmp_path: Path) -> None:
    objectives = "objective=[answer_ce,semantic_anchor,token_alignment]"
    cfg = config(tmp_path, "encoder=interlingua", objectives, "trainer.log_every_n_steps=1",
                 "objectives.semantic_anchor.weight.value=3.0", "group_lr.encoder=0.01",
                 "optimizer.lr=0.01")  # fmt: skip
    fit(cfg)
    found = history(cfg, "train/anchor_cosine")
    assert sum(found[-3:]) > sum(found[:3])
    with pytest.raises(UserError, match=r"does not say its anchor(.|\n)*encoder=interlingua"):
        prepare(config(tmp_path, objectives))
    with pytest.raises(UserError, match=r"encoder\.anchor_layers"):
        prepare(config(tmp_path, "encoder=interlingua", "encoder.anchor_layers=[7]"))


# -- the anchor of a sentence encoder ----------------------------------------------------------------------------------
def test_a_sentence_encoder_makes_the_anchor_of_its_own_tokens_of_the_text() -> None:
    encoder = make_encoder("interlingua", anchor_source=sentence_folder(), anchor_layers=[0, 2]).train()
    encoder.encode(TEXTS, SHARED)
    said = encoder.said()["anchor"]
    model, states = encoder.anchor.sentence, []
    for text in TEXTS:
        ids = torch.tensor([[*model.head, *model.ids(text), *model.tail]])
        found = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        states.append(torch.stack([found[layer][0, len(model.head) : -len(model.tail)] for layer in (0, 2)]))
    every = torch.cat(states, 1)
    mean, std = every.mean(1, keepdim=True), every.std(1, correction=0, keepdim=True)
    expected = torch.stack([((s - mean) / std).mean((0, 1)) for s in states])
    torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-4)
    assert not any("sentence" in name for name in encoder.state_dict())
    assert torch.equal(encoder.eval().encode(TEXTS[1:2], SHARED), encoder.encode(TEXTS[1:2], SHARED))
    torch.testing.assert_close(
        encoder.encode(TEXTS, SHARED)[1:2], encoder.encode(TEXTS[1:2], SHARED), atol=1e-5, rtol=0
    )
    with pytest.raises(UserError, match=r"encoder\.anchor_source(.|\n)*at most 254"):
        make_encoder("interlingua", anchor_source=sentence_folder(), max_tokens=250).anchor.beside(["a" * 255])


def test_a_run_on_two_frozen_models_resumes_in_parts_and_its_writer_finds_both(tmp_path: Path) -> None:
    here = shutil.copytree(sentence_folder(), tmp_path / "here")
    more = ["encoder=interlingua", f"encoder.anchor_source={here}", "objective=[answer_ce,semantic_anchor]",
            "trainer.max_epochs=1", "stages.0.batch_size=2", "callbacks.checkpoint.every_n_steps=1"]  # fmt: skip
    cfg, broken = config(tmp_path, *more), config(tmp_path, *more, runs="broken")
    whole = fit(cfg).module.state_dict()
    with pytest.raises(Killed):
        fit(broken, [Kill(2, False)])
    resumed = fit(broken, resume=True).module.state_dict()
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())
    ended = load(run_dir(cfg))
    expected = ended.writer().encode(["Anna lives in Rome."])
    export(ended, tmp_path / "ends")
    here.rename(tmp_path / "there")
    with pytest.raises(UserError, match="add --lm anchor_source=FOLDER"):
        Writer.load(tmp_path / "ends" / "writer")
    with pytest.raises(UserError, match="add --lm anchor_source=FOLDER"):
        Writer.load(tmp_path / "ends" / "writer", {"anchor_source": save_sentence_model(tmp_path, seed=1)})
    moved = Writer.load(tmp_path / "ends" / "writer", {"anchor_source": str(tmp_path / "there")})
    assert moved.encode(["Anna lives in Rome."]) == expected
