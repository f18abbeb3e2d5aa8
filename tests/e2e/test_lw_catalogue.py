"""Every option of every group binds, trains, resumes to the last bit, and answers from its bundles as from its run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Kill, Killed
from lw_runs import finish, fit, run_of
from lw_walk import DATA, ELSEWHERE, STEPS, WITH, Case, cases, facts, groups, places, tree
from states import unequal
from transformers import PreTrainedTokenizerBase

from latentwire.answer import answer
from latentwire.encode import encode_text
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.lm import loading
from latentwire.restore import load
from latentwire.scoring.finished import score
from suite.runs.identity import run_dir

TOKENIZER_OF = loading.tokenizer_of
ROOT = Path(__file__).parents[2]
TRAINED = [case for case in cases() if case.group != "baseline"]
SCORED = [case for case in cases() if case.group == "baseline"]
# what `make test` walks: a trained encoder on a padded vocabulary, gated attention, LoRA with dropout on 128 256 ids
QUICK = Case("disk_turned", "encoder", "lm_lora")
TOGETHER = ["injector=latent_adapters", "injector.heads=2", "codec=int8", "codec.group=8",
            "+adaptation@adaptation.second=lora", "adaptation.second.dropout=0.5"]  # fmt: skip


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return places(tmp_path_factory.mktemp("walk"))


@cache
def kept(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder."""
    return TOKENIZER_OF(source, loading.configuration(source))


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers, which nothing changes, are read from the disk once: a quarter of a second for 128 256 tokens."""
    monkeypatch.setattr(loading, "tokenizer_of", lambda source, config: kept(source))


def walk(case: Case, folder: Path, at: dict[str, str], *more: str) -> None:
    """Train whole and stopped in the middle, compare all that is kept, then read a message at both ends."""
    if case.needs_files and not (DATA / "stories260k").is_dir():
        pytest.skip(f"no stories260k in {DATA} (SUITE_DATA)")
    if case.needs_run:
        more = (*more, f"init.encoder={finish(tree(Case(case.pair, 'smoke', 'short'), folder, at, 'first', more))}")
    whole, broken = (tree(case, folder, at, runs, more) for runs in ("whole", "broken"))
    run_of(whole)
    expected = fit(whole)
    assert expected.pipeline.counters()["committed"] == case.steps
    with pytest.raises(Killed):
        fit(broken, [Kill(1 + case.steps // 2, False)])
    resumed = fit(broken, resume=True)
    assert not unequal(expected.module.state_dict(), resumed.module.state_dict())
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in (whole, broken))
    for saved in (a, b):
        del saved["restart"]["history"]  # file sizes: step times have more or fewer digits
    assert not unequal(a, b)
    ended = load(run_dir(whole))
    export(ended, folder / "ends")
    text, questions = facts(ended)
    asked = questions[0] if ended.wire.whole_prompt else None
    sent = Writer.load(folder / "ends" / "writer").encode([text], [asked] if asked else None)[0]
    assert sent == encode_text(ended, text, asked)
    questions = [] if ended.wire.whole_prompt else questions
    for model in ended.wire.models:
        reader: Any = Reader.load(folder / "ends" / "readers" / model)
        assert reader.answer(sent, questions) == answer(ended, sent, model, questions)


@pytest.mark.usefixtures("read_once")
def test_models_from_a_disk_train_resume_and_leave(tmp_path: Path, at: dict[str, str]) -> None:
    walk(QUICK, tmp_path, at, *TOGETHER)


@pytest.mark.slow
@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.id)
def test_it_trains_resumes_and_leaves(tmp_path: Path, at: dict[str, str], case: Case) -> None:
    walk(case, tmp_path, at)


@pytest.mark.slow
@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("case", SCORED, ids=lambda case: case.id)
def test_a_baseline_has_the_same_row_beside_a_run_and_beside_what_is_loaded_of_it(
    tmp_path: Path, at: dict[str, str], case: Case
) -> None:
    cfg = tree(case, tmp_path, at)
    run_of(cfg)
    parts = fit(cfg)
    ended = load(run_dir(cfg))
    rows = [
        score(cfg, run_dir(cfg), inputs, wire, writes=False)["methods"]
        for inputs, wire in ((parts.inputs, parts.module.wire), (ended.inputs, ended.wire))
    ]
    assert set(cfg.baselines) <= {name.partition("/")[0] for name in rows[0]}, sorted(rows[0])
    for row in rows:
        for method in row.values():
            for measured in [k for k in method if k.endswith(("_ms", "seconds"))]:
                del method[measured]
    assert not unequal(*rows)


def test_nothing_of_the_tree_is_left_out() -> None:
    walked = {(case.group, case.option) for case in cases()}
    for group, options in groups().items():
        if group in ELSEWHERE:
            assert (ROOT / ELSEWHERE[group]).is_file()
        else:
            assert {(group, option) for option in options} <= walked
    known = {case.key for case in cases()}
    assert not set(WITH) - known
    assert not set(STEPS) - known
