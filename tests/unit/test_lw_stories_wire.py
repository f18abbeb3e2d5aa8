"""Stories sampled by stories260K, and the wire that sends their beginnings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import run_of
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.data import stories
from latentwire.data.base import Passage
from latentwire.data.stories import Stories
from latentwire.examples import is_continuation, prompt_of
from latentwire.lm.layout import Prefix
from latentwire.pocket.stories260k import load_stories260k
from latentwire.run import Tree, train
from suite.config.check import check
from suite.config.compose import Composer
from suite.runs.job import seed_everything

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHECKPOINT = DATA / "stories260k" / "tinystories_260k__checkpoint_legacy.bin"
PIECES = DATA / "stories260k" / "tinystories_260k__tokenizer.bin"
SMALL: dict[str, Any] = {"begin": 32, "rest": 12, "train": 20, "val": 8, "test": 40}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (CHECKPOINT.is_file() and PIECES.is_file()):
        pytest.skip(f"no stories260k in {DATA} (SUITE_DATA)")
    return tmp_path_factory.mktemp("stories")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "BLOCK", 24)


def corpus(cache: Path, **options: Any) -> Stories:
    return Stories(load_stories260k(str(CHECKPOINT), str(PIECES)), str(cache), **{**SMALL, **options})


def no_sampling(self: Stories, name: str, number: int) -> list[list[int]]:
    raise AssertionError(f"block {number} of {name} is sampled")


def test_a_passage_is_what_was_sampled_up_to_a_words_end_and_goes_on_with_the_next_word(cache: Path) -> None:
    source, lm = corpus(cache), load_stories260k(str(CHECKPOINT), str(PIECES))
    told = source._blocks("test")
    blocks = [next(told), next(told)]
    for passage in source.split("test"):
        (question,) = passage.questions
        assert is_continuation(question)
        _, number, i = passage.id.split("/")
        text, rest = lm.style.encode(passage.text), lm.style.encode(question.answers[0])
        assert 16 <= len(text) <= SMALL["begin"]
        assert 2 <= len(rest) <= SMALL["rest"]
        assert lm.tokenizer.convert_ids_to_tokens(rest[0]).startswith("▁")
        # together they are read as one story, and it is the sampled one
        assert lm.style.encode(f"{passage.text} {question.answers[0]}") == text + rest
        assert tuple(blocks[int(number)][int(i)][: len(text + rest)]) == text + rest
        prompt = prompt_of(lm, passage, question)
        assert (prompt.ids, prompt.question, prompt.answer) == ((1, *text, *rest), rest[:1], rest[1:])


def test_splits_differ_and_a_seed_tells_the_same_again(cache: Path, tmp_path: Path) -> None:
    source = corpus(cache)
    train, val, test = (list(source.split(name)) for name in ("train", "val", "test"))
    assert [len(s) for s in (train, val, test)] == [20, 8, 40]
    texts = [{p.text for p in s} for s in (train, val, test)]
    assert not texts[0] & (texts[1] | texts[2])
    assert not texts[1] & texts[2]
    torch.rand(3)  # the global generator has no say
    assert list(corpus(tmp_path).split("val")) == val
    assert {p.text for p in corpus(tmp_path, seed=1).split("val")}.isdisjoint(texts[1])


def test_an_interrupted_sampling_goes_on_and_a_finished_one_is_read(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(corpus(tmp_path).split("test"))
    files = sorted(tmp_path.glob("*-seed0-test-*.json"))
    assert len(files) > 1
    files[-1].unlink()
    assert list(corpus(tmp_path).split("test")) == whole
    monkeypatch.setattr(Stories, "_sample", no_sampling)
    assert list(corpus(tmp_path).split("test")) == whole
    with pytest.raises(AssertionError, match="is sampled"):  # another temperature is another corpus
        corpus(tmp_path, temperature=0.9).split("test")
    files[0].write_text(files[0].read_text()[:-9], encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        corpus(tmp_path).split("test")


def test_the_text_leaves_the_models_own_entropy_at_temperature_1(cache: Path) -> None:
    """NLL minus entropy, token by token, is zero on average where the model itself has drawn the tokens."""
    lm = load_stories260k(str(CHECKPOINT), str(PIECES))

    def excess(passages: list[Passage]) -> tuple[float, float]:
        prompts = [prompt_of(lm, p, p.questions[0]) for p in passages]
        prefix = Prefix(text_ids=[p.context for p in prompts])
        out = lm.answer_logprobs(prefix, [p.question for p in prompts], [p.answer for p in prompts])
        entropy = -(out.scores.exp() * out.scores).sum(-1)
        each = -out.scores.gather(1, out.tokens[:, None])[:, 0] - entropy
        return float(each.mean()), float(each.std() / len(each) ** 0.5)

    with torch.no_grad():
        mean, error = excess(list(corpus(cache).split("test")))
        cold, _ = excess(list(corpus(cache, temperature=0.5).split("test")))
    assert abs(mean) < 4 * error
    assert cold < -4 * error


def test_settings_and_files_that_cannot_work_are_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.temperature"):
        check(tree("corpus.temperature=0.0"), Tree)
    with pytest.raises(UserError, match="below 512"):
        corpus(cache, begin=500)
    with pytest.raises(UserError, match="read back unchanged"):
        corpus(tmp_path, temperature=50.0).split("val")


def test_missing_files_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tok512\.bin"):
        load_stories260k(str(tmp_path / "a.bin"), str(tmp_path / "b.bin"))


# -- the experiment ---------------------------------------------------------------------------------------------------
def tree(*more: str) -> DictConfig:
    return Composer("latentwire").compose(["experiment=stories", *more])


def test_no_verdict_rests_on_f1_or_em() -> None:
    cfg = tree()
    check(cfg, Tree)
    rules = cfg.acceptance.evaluation
    assert "below_no_context" in rules
    compared = [str(rule[key]) for rule in rules.values() for key in ("metric", "minus")]
    assert all(path.rpartition(".")[2].startswith("nll") for path in compared), compared
    assert (cfg.callbacks.checkpoint.monitor, cfg.callbacks.checkpoint.mode) == ("val/nll", "min")
    assert cfg.baselines.token_budget.keep == "last"


@pytest.mark.slow
def test_the_wire_is_trained_and_judged_on_nll(cache: Path, tmp_path: Path) -> None:
    cfg = tree(
        f"paths.data={DATA}", f"paths.cache={cache}", f"paths.runs={tmp_path}", "corpus.begin=40", "corpus.rest=12",
        "corpus.train=64", "corpus.val=16", "corpus.test=40", "wire.measured_texts=64", "loader.steps_per_epoch=4",
        "trainer.max_epochs=2", "lr_schedule.warmup_steps=4", "evaluation.passages=40", "evaluation.max_new_tokens=2",
        "evaluation.n_boot=50", "trainer.enable_progress_bar=false", "callbacks.progress=null",
    )  # fmt: skip
    seed_everything(0)
    result = train(cfg, run_of(cfg))
    methods = result["methods"]
    assert {"wire", "text", "no_context", "token_budget", "first_tokens"} <= set(methods)
    assert {methods[name]["M"] for name in methods} == {result["M"]}
    nll = {name: m["nll"] for name, m in methods.items()}
    # the least-squares start alone is worth more than nothing; the last tokens are worth more than the first
    assert nll["text"] < nll["wire"] < nll["no_context"]
    assert nll["text"] < nll["token_budget"] < nll["first_tokens"]
    assert methods["wire"]["swap_gap"] > 0
    verdicts = {v["rule"]: v for v in result["acceptance"]}
    budget = verdicts["against_the_fair_budget"]
    assert budget["value"] == pytest.approx(nll["wire"] - nll["token_budget"])
    assert budget["passed"] == (nll["wire"] <= nll["token_budget"])
