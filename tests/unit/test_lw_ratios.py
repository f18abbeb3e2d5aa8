"""Several ratios of one wire: what a step reads, what is sent at a ratio, and why nothing is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lw_runs import config, fit, history, prepare, run_of

from callbacks.errors import UserError
from latentwire.codec.message import unpack
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.restore import load
from latentwire.scoring.prefixes import CutWire
from latentwire.train.nested import budgets
from latentwire.train.ratios import SeveralRatios
from suite.runs.identity import run_dir

CHOSEN = ["curriculum=several_ratios", "wire.slots=8", "adapter.dropout=0.0"]
SHORT = ["trainer.max_epochs=1", "trainer.log_every_n_steps=1", "seed=2"]
TEXTS = ["Anna lives in Rome. Anna works as a baker.", "Bert lives in Oslo."]


def test_ratios_are_multiples_of_the_run_s_own() -> None:
    assert SeveralRatios([2, 4]).shares(26) == pytest.approx({6: 1 / 3, 13: 1 / 3, 26: 1 / 3})
    assert SeveralRatios([4, 1.5], own=0.5).shares(12) == pytest.approx({3: 0.25, 8: 0.25, 12: 0.5})
    assert budgets(SeveralRatios([2], own=1.0), 12) == ()
    for times, slots in (([1], 12), ([2, 4], 2), ([4, 4.1], 8)):
        with pytest.raises(UserError, match=r"wire\.nested\.times"):
            SeveralRatios(times).shares(slots)


def test_a_step_reads_messages_that_were_encoded_at_its_ratio(tmp_path: Path) -> None:
    """Literally: step t has the loss of messages encoded at the slots that are drawn, no part of longer ones."""
    cfg = config(tmp_path, *CHOSEN, *SHORT)
    parts = fit(cfg)
    batch, module = next(iter(parts.train)), parts.module
    drawn = [SeveralRatios([2, 4]).draw(8, 2, t) for t in range(6)]
    assert history(cfg, "train/slots") == drawn
    assert set(drawn) == {2, 4, 8}

    class At:
        t = 0

    module._pipeline = At()  # type: ignore[assignment]
    whole = module.wire.latents(batch.tokens).values
    for t, k in enumerate(drawn):
        At.t = t
        coded, found = module.objective_outputs(batch, dict(module.objectives))
        values = module.wire.codec(module.wire.encoder(batch.tokens, module.wire.layout.prefix(k, "test"))).values
        assert torch.equal(coded.values, values)
        assert k == 8 or not torch.allclose(values, whole[:, :k])
        prefix = module.wire.injectors["tiny_llama"](values)
        rows = batch.rows["tiny_llama"]["answer"]
        scored = module.lms["tiny_llama"].answer_logprobs(prefix.select(rows.source), rows.question, rows.answer)
        assert torch.equal(found["tiny_llama"]["answer_ce"].loss, scored.nll().mean())


def test_bundles_write_and_read_every_ratio_and_cut_none(tmp_path: Path) -> None:
    cfg = config(tmp_path, *CHOSEN, *SHORT, "loader.steps_per_epoch=1")
    run_of(cfg)
    fit(cfg)
    ended = load(run_dir(cfg))
    export(ended, tmp_path / "ends")
    writer = Writer.load(tmp_path / "ends" / "writer")
    reader = Reader.load(tmp_path / "ends" / "readers" / "tiny_llama")
    for k in (2, 4, 8):
        sent = writer.encode(TEXTS, slots=k)
        cut = CutWire(ended.wire, k)
        assert torch.equal(
            torch.stack([unpack(m, writer.codec, writer.identity, "m") for m in sent]), cut.encode(TEXTS)
        )
        assert len(reader.answer(sent[0], ["Where does Anna live?"])) == 1
        assert cut.latents_of(TEXTS, 1).shape == (2, k, 8)
    for end in (writer, reader):
        with pytest.raises(UserError, match=r"no part of a longer one(.|\n)*--slots 2"):
            end.cut(writer.encode(TEXTS[:1])[0], 2)


def test_objectives_that_hold_slots_to_places_and_local_encoders_are_welcome(tmp_path: Path) -> None:
    local = ["encoder.refiner_layers=0", "objective=[answer_ce,embedding_reconstruction]"]
    module = prepare(config(tmp_path, *CHOSEN, *local)).module
    assert module.wire.layout.apart
