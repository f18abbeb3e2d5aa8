"""The ladder: what a verdict is, when climbing stops, what is measured, what is refused. Tiny random models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from callbacks.errors import UserError
from latentwire.data.base import spread
from latentwire.ladder import climb as climbing
from latentwire.ladder import rung0_parity as parity
from latentwire.ladder import rung1_replay as replay
from latentwire.ladder import rung3_overfit as overfit
from latentwire.ladder import rung6_squeeze as squeeze
from latentwire.ladder.__main__ import main
from latentwire.ladder.bare_trainer import Gentle, module_of
from latentwire.ladder.command import parse
from latentwire.ladder.options import LadderOptions, ParityOptions, ReplayOptions
from latentwire.ladder.ranks import rank_of, slot_rank
from latentwire.ladder.rung2_channel import scales
from latentwire.ladder.subject import Subject, questions_without_a_word, unregistered
from latentwire.ladder.verdict import Check, Verdict, judged, refused
from suite.config.compose import compose
from suite.runs.identity import config_hash
from suite.runs.ledger import Ledger as Rows

DEFAULT = OmegaConf.to_container(compose("latentwire/ladder").ladder, resolve=True)


def ladder(**changes: Any) -> LadderOptions:
    assert isinstance(DEFAULT, dict)
    return TypeAdapter(LadderOptions).validate_python({**DEFAULT, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ladder")


def build(folder: Path, *more: str, lms: Any = ("llama",)) -> Subject:
    given = ["baseline=[token_budget,legacy_truncation,pca]", *more]
    return Subject.build(config(folder, *given, lms=lms))


# -- verdicts -----------------------------------------------------------------------------------------------------
def test_a_number_passes_within_its_bounds_and_never_as_nan() -> None:
    assert Check("x", 1.0, low=1.0, high=1.0).passed
    assert not Check("x", 0.99, low=1.0).passed
    assert not Check("x", 1.01, high=1.0).passed
    assert not Check("x", math.nan, low=0.0).passed
    assert not Check("x", math.inf, low=0.0).passed
    assert Check("x", math.nan).passed, "a number without bounds informs"
    assert Check("x", 3.0, 0.2, 5.0).bounds == ">= 0.2 and <= 5"


def test_the_first_number_out_of_bounds_gives_the_remedy() -> None:
    checks = [Check("a", 1.0, low=0.0, remedy="A"), Check("b", 2.0, high=1.0, remedy="B"), Check("c", 9.0, high=1.0)]
    bad = judged(2, checks)
    assert (bad.status, bad.name, bad.remedy) == ("fail", "channel", "B")
    assert bad.found == "b is 2, wanted <= 1"
    assert judged(2, checks[:1]).status == "pass"
    text = json.dumps(judged(0, [Check("a", math.nan)]).plain(), allow_nan=False)
    assert json.loads(text)["checks"][0]["value"] == "nan"
    error = refused(3, UserError("where", "this", "that", "do it"))
    assert (error.status, error.remedy) == ("fail", "do it")
    assert "this" in error.found


# -- climbing -----------------------------------------------------------------------------------------------------
@pytest.fixture
def rungs(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Rungs by number, to be replaced: a status, or an error to raise."""
    plan: dict[int, Any] = {}

    def one(rung: int, *_: Any) -> Verdict:
        planned = plan.get(rung, "pass")
        if isinstance(planned, Exception):
            raise planned
        return Verdict(rung, planned)

    class NoRun:
        @classmethod
        def read(cls, folder: Path) -> NoRun:
            return cls()

    monkeypatch.setattr(climbing, "_one", one)
    monkeypatch.setattr(climbing, "Trained", NoRun)
    return plan


def statuses(ladder: LadderOptions, run: Any = None) -> list[str]:
    nobody: Any = object()
    return [v.status for v in climbing.climb(ladder, lambda: nobody, run)]


def test_climbing_stops_at_the_first_rung_that_fails(rungs: dict[int, Any]) -> None:
    assert statuses(ladder()) == ["pass"] * 5 + ["not run"] * 2
    assert statuses(ladder(), Path) == ["pass"] * 7
    assert statuses(ladder(first=3, last=3)) == ["not run"] * 3 + ["pass"] + ["not run"] * 3
    rungs[2] = rungs[3] = "fail"
    assert statuses(ladder(), Path) == ["pass", "pass", "fail"] + ["not run"] * 4
    rungs[1] = UserError("a text", "too long", "short", "cut it")
    verdicts = list(climbing.climb(ladder(), lambda: None, None))  # type: ignore[arg-type, return-value]
    assert [v.status for v in verdicts[:3]] == ["pass", "fail", "not run"]
    assert (verdicts[1].remedy, verdicts[2].found) == ("cut it", "rung 1 failed")
    rungs[1] = ValueError("a fault of the suite is no verdict")
    with pytest.raises(ValueError, match="no verdict"):
        statuses(ladder())


def test_what_cannot_be_built_is_the_users_error_and_no_verdict(rungs: dict[int, Any]) -> None:
    def nothing() -> Subject:
        raise UserError("corpus", "empty", "texts", "give some")

    with pytest.raises(UserError, match="corpus"):
        list(climbing.climb(ladder(), nothing, None))


# -- the command --------------------------------------------------------------------------------------------------
def test_the_same_overrides_are_the_same_run_as_of_the_program() -> None:
    line = ["experiment=pocket_smoke", "wire.ratio=8", "seed=3"]
    asked = parse([*line, "ladder.overfit.steps=7", "train=true"])
    assert config_hash(asked.cfg) == config_hash(compose("latentwire", line))
    assert (asked.ladder.overfit.steps, asked.train, asked.run) == (7, True, None)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["ladder.overfit.step=7"], "ladder.overfit.steps"),
        (["ladder.overfit.em=1.5"], "a share from 0 to 1"),
        (["ladder.first=3", "ladder.last=2"], "ladder.first"),
        (["ladder.first=5"], "train=true"),
        (["ladder.first=4"], "start at 3"),
        (["run=nowhere"], "config.yaml"),
        (["wire.slots=6", "wire.ratio=8"], "no effect"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_exit_code_2(
    line: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    assert found in capsys.readouterr().err


def test_an_existing_run_has_its_own_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(compose("latentwire", ["wire.ratio=8"]), resolve=True))
    assert parse([f"run={tmp_path}", "ladder.last=4"]).cfg.wire.ratio == 8
    for more, found in ((["wire.ratio=4"], "only ladder.*"), (["train=true"], "only ladder.*"), ([], "best.ckpt")):
        assert main([f"run={tmp_path}", *more]) == 2
        assert found in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("program: asgml\n")
    assert main([f"run={tmp_path}"]) == 2
    assert "a run of asgml" in capsys.readouterr().err


# -- what the rungs measure ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [["injector=soft_prefix"], ["wire.track=whole_prompt"]])
def test_a_sound_wire_passes_parity_and_replay_with_both_families(folder: Path, more: list[str]) -> None:
    subject = build(folder, *more, lms=("llama", "qwen2"))
    found = parity.parity(subject, ParityOptions(passages=1, words=3))
    assert found.status == "pass", found.found
    assert found.checks[-1].value == 2 * (4 + 2), "four paths of its own and the two fair baselines, on both models"
    again = replay.replay(subject, ReplayOptions(questions=3))
    assert again.status == "pass", again.found
    assert sum("keys and values" in c.name for c in again.checks) == (4 if "wire.track=whole_prompt" in more else 0)


def test_rivals_that_code_or_compact_the_text_read_the_same_question(folder: Path) -> None:
    subject = build(folder, "baseline=[text_lm_coded,lm_byte_budget,id_byte_budget,kv_compaction,gist]")
    found = parity.parity(subject, ParityOptions(passages=1, words=1))
    assert found.status == "pass", found.found
    assert found.checks[-1].value == 4 + 5


def test_a_baseline_that_reads_another_question_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentwire.baselines.budget import TokenBudget

    subject = build(folder)
    monkeypatch.setattr(TokenBudget, "follows", lambda self, prompt: prompt.question[1:])
    found = parity.parity(subject, ParityOptions(passages=1, words=3))
    assert found.found.startswith("read otherwise: baseline token_budget reads ")
    read, expected = found.found.split(" instead of ")
    assert expected.startswith("'Question: What")
    assert "uestion: What" in read
    assert "Question: What" not in read
    assert found.checks[1].value == 1


def test_a_fresh_prefix_is_as_large_as_text_and_its_factor_is_measured(folder: Path) -> None:
    for injector in ("soft_prefix", "deep_prefix"):
        subject = build(folder, f"injector={injector}")
        name = next(iter(subject.lms))
        assert all(f == pytest.approx(1, rel=0.15) for f in scales(subject, name).values())
        injector_of: Any = subject.wire.injectors[name]
        with torch.no_grad():
            gain = injector_of.gain if injector == "deep_prefix" else injector_of.adapter.calibration.gain
            gain *= 7.0
        assert all(f == pytest.approx(7, rel=0.25) for f in scales(subject, name).values()), injector


def test_ranks_do_not_take_rounding_for_directions() -> None:
    g = torch.Generator().manual_seed(0)
    one = torch.randn(64, generator=g).expand(13, 64)
    noisy = one + 1e-7 * torch.randn(13, 64, generator=g)
    assert rank_of(one) == rank_of(noisy) == 0.0
    assert rank_of(torch.randn(13, 64, generator=g)) > 10
    assert slot_rank(torch.stack([one, torch.randn(13, 64, generator=g)])) == pytest.approx(
        rank_of(torch.randn(13, 64, generator=torch.Generator().manual_seed(1))) / 2, abs=0.5
    )
    assert slot_rank(torch.randn(4, 2, 8, generator=g)) == pytest.approx(1.0), "two slots that differ"


def test_words_are_spread_and_left_out_one_by_one(folder: Path) -> None:
    assert spread(3, 5) == [0, 1, 2]
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(10, 1) == [0]
    subject = build(folder)
    ((_, question),) = subject.pairs("train", 1)
    shorter = [q.text for q in questions_without_a_word(question)]
    assert len(shorter) == len(set(shorter)) == len(question.text.split())
    assert all(len(t.split()) == len(shorter) - 1 for t in shorter)


def test_examples_are_as_many_as_asked_and_from_all_over_a_passage(folder: Path) -> None:
    subject = build(folder, "loader.questions=2")
    whole = subject.passages("train", 2)[0]
    found = overfit.examples(subject, 5)
    assert [len(p.questions) for p in found] == [2, 2, 1]
    assert found[0].questions == (whole.questions[0], whole.questions[-1])


def test_groups_that_no_stage_trains_and_lora_that_the_wire_does_not_hold_are_named(folder: Path) -> None:
    stage = "{_target_: latentwire.train.Period, name: a, trains: [encoder]}"
    subject = build(folder, f"stages=[{stage}]")
    module = module_of(subject, 10, Gentle(10, 1.0))
    assert overfit.untrained(subject, module) == ["adapter:tiny_llama", "injector:tiny_llama"]
    assert unregistered(subject) == []
    from peft import LoraConfig

    subject.lms["tiny_llama"].adapt(LoraConfig(r=2, target_modules=["v_proj"]))
    assert len(unregistered(subject)) == 2 * subject.lms["tiny_llama"].n_layers
    assert unregistered(subject)[0].startswith("LoRA of tiny_llama: ")


def test_the_gentle_schedule_rises_and_falls_at_a_share_of_the_rates() -> None:
    factor = Gentle(200, 0.3).factor(1, 200)
    assert factor(0) == pytest.approx(0.03, rel=0.01)
    assert max(map(factor, range(200))) == pytest.approx(0.3, rel=0.15)
    assert factor(199) < 0.001


# -- the curve ----------------------------------------------------------------------------------------------------
def test_a_requantised_wire_sends_what_its_codec_sends(folder: Path) -> None:
    subject = build(folder)
    texts = [p.text for p in subject.passages("val", 2)]
    codec = squeeze.Integer(8, 4, 8)
    smaller = squeeze.Requantised(subject.wire, codec)
    assert torch.equal(smaller.encode(texts), codec(subject.wire.encode(texts)).values)
    assert smaller.message_bytes() == 13 + codec.payload(subject.wire.slots).total < subject.wire.message_bytes()


def test_siblings_are_finished_runs_that_differ_in_size_alone(folder: Path, tmp_path: Path) -> None:
    subject = build(folder)
    plain: Any = OmegaConf.to_container(subject.cfg, resolve=True)

    def row(name: str, low: float = 0.1, status: str = "finished", against: Any = None, **changes: Any) -> None:
        own = {k: v for k, v in changes.items() if k not in ("d_z", "slots")}
        wire = {**plain["wire"], **{k: v for k, v in changes.items() if k in ("d_z", "slots")}}
        f1 = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6}
        tests = [
            {"wire": "wire", "against": a, "low": low, "model": "m"} for a in against or ("no_context", "token_budget")
        ]
        Rows(tmp_path / "ledger.jsonl").append(
            {"program": "latentwire", "hash": name, "seed": 0, "status": status, "tests": tests,
             "config": {**plain, "wire": wire, **own},
             "methods": {"wire": {"kind": "wire", "M": wire["slots"], "bytes": 10.0 * wire["slots"], **f1}}}
        )  # fmt: skip

    row("self")
    row("small", slots=2, seed=4)
    row("least", slots=1, low=-0.1)
    row("narrow", d_z=4, against=["text"])
    row("other", slots=2, observe_smoothing=0.5)
    row("failed", slots=2, status="failed")
    found = squeeze.siblings(tmp_path / "name" / "self", subject)
    assert [(p["label"].split()[1], p["M"], p["d_z"], p["holds"]) for p in found] == [
        ("narrow", 3, 4, None),
        ("small", 2, 8, True),
        ("least", 1, 8, False),
    ]
