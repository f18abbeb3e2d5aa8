"""Every part of a wire trains, resumes to the last bit, and answers from its bundles as from its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Kill, Killed
from lw_runs import config, fit, run_of
from lw_toys import save_sentence_model

from latentwire.answer import answer
from latentwire.encode import encode_text
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.restore import load
from suite.config.compose import Composer
from suite.runs.identity import run_dir

GROUPS = ("encoder", "pooling@encoder.pooling", "adapter", "injector", "codec", "objective")
# the audit ends a run in which a weight has no gradient within so many steps
SIZES = ["trainer.max_epochs=1", "loader.steps_per_epoch=3", "callbacks.checkpoint.every_n_steps=1",
         "callbacks.audit.within=2"]  # fmt: skip
# sizes that the option's own do not fit tiny models with, and what an option needs beside it
WITH: dict[str, list[str]] = {
    "objective=semantic_anchor": ["encoder=interlingua"],
    "objective=refiner_depth": ["encoder.halting=true"],
    "encoder=byte": ["encoder.heads=2"],
    "encoder=lm_hidden_narrow": ["encoder.layers=[0,1,2]"],
    "encoder=lm_hidden_wide": ["encoder.layers=[0,1,2]", "encoder.heads=2"],
    "encoder=lm_lora_wide": ["encoder.heads=2"],
    "adapter=affine": ["wire.d_z=16"],
    "objective=adapter_l2": ["adapter=channel_affine"],
    "injector=latent_adapters": ["injector.heads=2"],
    "injector=sized_prefix": ["injector.heads=2", "injector.length=5"],
    "codec=int8": ["codec.group=8"],
    "codec=int6": ["codec.group=8"],
    "codec=int4": ["codec.group=8"],
    "codec=rvq": ["codec.size=4"],
}
COMPOSER = Composer("latentwire")
FITTED = "encoder=pca"  # which has no weights to train: tests/unit/test_lw_pca.py
OPTIONS = [f"{g}={option}" for g in GROUPS for option in COMPOSER.options(g.partition("@")[0])]
OPTIONS.remove(FITTED)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_it_trains_resumes_and_leaves(tmp_path: Path, option: str) -> None:
    group, _, name = option.partition("=")
    chosen = [f"objective=[answer_ce,{name}]" if group == "objective" and name != "answer_ce" else option]
    more = [*chosen, *WITH.get(option, [])]
    if option == "encoder=st_query":
        more.append(f"encoder.source={save_sentence_model(tmp_path)}")
    whole, broken = (config(tmp_path, *SIZES, *more, lms=("llama", "qwen2"), runs=r) for r in ("whole", "broken"))
    run_of(whole)
    expected = fit(whole)
    with pytest.raises(Killed):
        fit(broken, [Kill(2, False)])
    resumed = fit(broken, resume=True)
    states = [parts.module.state_dict() for parts in (expected, resumed)]
    assert states[0].keys() == states[1].keys()
    assert not [k for k, x in states[0].items() if not torch.equal(x, states[1][k])]
    ended = load(run_dir(whole))
    export(ended, tmp_path / "ends")
    text = "Anna lives in Rome. Anna works as a baker."
    sent = Writer.load(tmp_path / "ends" / "writer").encode([text])[0]
    assert sent == encode_text(ended, text)
    for model in ended.wire.models:
        reader: Any = Reader.load(tmp_path / "ends" / "readers" / model)
        questions = ["Where does Anna live?"]
        assert reader.answer(sent, questions) == answer(ended, sent, model, questions)
