"""Six planted faults of a wire: the ladder stops at the right rung, names the fault and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, fit

from callbacks.errors import UserError
from latentwire.adapters.calibration import Calibration
from latentwire.encoders.base import Encoder, Tokens
from latentwire.encoders.pooling import ChunkMean
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.ladder.__main__ import main
from latentwire.lm import frozen, probe, prompts
from latentwire.lm.layout import TextColumns
from latentwire.train.batches import Renderer
from latentwire.wire import LatentWire
from suite.runs.identity import run_dir

# A model that really reads, and little to do on every rung.
QUICK = [
    "experiment=pocket_smoke",
    "wire.measured_texts=24",
    "baseline=[token_budget,legacy_truncation]",
    "ladder.parity.passages=1",
    "ladder.parity.words=4",
    "ladder.replay.questions=3",
    "ladder.channel.passages=1",
    "ladder.overfit.examples=8",
    "ladder.overfit.every=10",
]
LATER = [*QUICK, "ladder.first=3"]  # for faults that the rungs before do not see; `test_a_sound_wire…` climbs them


@pytest.fixture
def climb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Climbs by the command; gives rung and plain verdict of the first failure, None and the file where all hold."""

    def go(*overrides: str) -> tuple[int | None, dict[str, Any]]:
        code = main([*overrides, f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"])
        written = sorted((tmp_path / "runs" / "ladder").rglob("ladder.json"))
        assert len(written) == 1, capsys.readouterr().err
        found = json.loads(written[0].read_text(encoding="utf-8"))
        failed = [v for v in found["verdicts"] if v["status"] == "fail"]
        assert code == (1 if failed else 0)
        assert found["passed"] is (not failed)
        if not failed:
            return None, found
        (bad,) = failed
        said = "".join(capsys.readouterr().out.split())
        for part in (bad["found"], bad["remedy"]):  # both are on the terminal, however it wraps lines
            assert "".join(part.split()) in said
        assert {v["status"] for v in found["verdicts"][bad["rung"] + 1 :]} <= {"not run"}
        return bad["rung"], bad

    return go


def test_a_sound_wire_climbs_to_the_rungs_that_need_training(climb: Any) -> None:
    rung, found = climb(*QUICK)
    assert rung is None
    assert [v["status"] for v in found["verdicts"]] == ["pass"] * 5 + ["not run"] * 2
    assert found["verdicts"][5]["remedy"] == "run=<directory of a run>, or train=true"


# -- (a) the question is cut off ----------------------------------------------------------------------------------
def test_a_question_cut_before_the_reader_in_training_alone(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Renderer.ask

    def cut(self: Renderer, asked: Any) -> list[prompts.Prompt]:
        return [replace(prompt, question=prompt.question[:4]) for prompt in whole(self, asked)]

    monkeypatch.setattr(Renderer, "ask", cut)
    rung, bad = climb(*QUICK)
    assert rung == 0
    assert "training reads" in bad["found"]
    assert "latentwire.lm.prompts.render" in bad["remedy"]


def test_a_question_cut_before_the_reader_everywhere(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prompts._prompt

    def cut(*args: Any) -> prompts.Prompt:
        prompt = whole(*args)
        return replace(prompt, question=prompt.question[:6])

    monkeypatch.setattr(prompts, "_prompt", cut)
    rung, bad = climb(*QUICK)
    assert rung == 0
    assert "of the question" in bad["found"]
    assert "a question is never cut" in bad["remedy"]


def test_a_question_cut_before_the_encoder_in_silence(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Encoder.tokenize

    def cut(self: Encoder, texts: Any) -> Tokens:
        tokens = whole(self, texts)
        return Tokens(tokens.ids[:, :20], tokens.mask[:, :20], tokens.cut)

    monkeypatch.setattr(Encoder, "tokenize", cut)
    rung, bad = climb(*QUICK, "wire.track=whole_prompt", "baseline=[whole_prompt_budget]")
    assert rung == 0
    assert "the encoder cuts texts" in bad["found"]
    assert "encoder.overflow=refuse" in bad["remedy"]


def test_a_question_that_the_encoder_drops_behind_its_tokens(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChunkMean.pool

    def cut(self: ChunkMean, x: torch.Tensor, mask: Any, lengths: torch.Tensor, slots: Any) -> torch.Tensor:
        return whole(self, x[:, :20], mask[:, :20], lengths.clamp(max=20), slots)

    monkeypatch.setattr(ChunkMean, "pool", cut)
    rung, bad = climb(*QUICK, "wire.track=whole_prompt", "baseline=[whole_prompt_budget]")
    assert rung == 0
    assert "the encoder is not given" in bad["found"]
    assert "of the question" in bad["found"]


def test_a_configured_cut_of_the_question(climb: Any) -> None:
    rung, bad = climb(*QUICK, "wire.track=whole_prompt", "baseline=[whole_prompt_budget]", "encoder.max_tokens=20",
                      "encoder.overflow=count")  # fmt: skip
    assert rung == 0
    assert "set encoder.max_tokens=" in bad["remedy"]


# -- (c) no attention mask on the prefix --------------------------------------------------------------------------
@pytest.mark.parametrize("injector", ["soft_prefix", "deep_prefix"])
@pytest.mark.parametrize("mistake", ["all ones", "prefix masked"])
def test_a_wrong_attention_mask(
    climb: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    injector: str,
    mistake: str,
) -> None:
    """It is refused on load; where it gets past that, the ladder names it."""
    right = frozen.lay_out_text

    def wrong(text: Any, answers: Any, cached: int, fixed: int) -> TextColumns:
        columns = right(text, answers, cached, fixed)
        mask = columns.mask.clone()
        if mistake == "all ones":
            mask[:] = 1
        else:
            mask[:, 1:fixed] = 0  # behind BOS
        return replace(columns, mask=mask)

    monkeypatch.setattr(frozen, "lay_out_text", wrong)
    folders = [f"paths.runs={tmp_path / 'refused'}", f"paths.cache={tmp_path / 'cache'}"]
    assert main([*QUICK, f"injector={injector}", *folders]) == UserError.EXIT_CODE
    assert "apart from the text itself" in capsys.readouterr().err
    monkeypatch.setattr(probe, "check", lambda lm: None)
    rung, bad = climb(*QUICK, f"injector={injector}")
    assert rung == 1
    assert "attention_mask" in bad["remedy"]


# -- (b) the prefix is 100 times too large ------------------------------------------------------------------------
def test_a_soft_prefix_100_times_too_large(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Calibration.__init__

    def wrong(self: Calibration, target: float, mode: Any = "batch") -> None:
        right(self, 100 * target, mode)

    monkeypatch.setattr(Calibration, "__init__", wrong)
    rung, bad = climb(*QUICK, "injector=soft_prefix")
    assert rung == 2
    factor = bad["checks"][0]["value"]
    assert factor == pytest.approx(100, rel=0.05)
    assert f"{factor:.3g} times as large as text" in bad["found"]
    assert "adapter.calibration=batch" in bad["remedy"]


def test_a_deep_prefix_100_times_too_large(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = DeepPrefix.calibrate

    def wrong(self: DeepPrefix, *measured: Any) -> None:
        right(self, *measured)
        self.rms /= 100

    monkeypatch.setattr(DeepPrefix, "calibrate", wrong)
    rung, bad = climb(*QUICK)
    assert rung == 2
    assert all(c["value"] == pytest.approx(100, rel=0.3) for c in bad["checks"])
    assert "times as large as text" in bad["found"]


# -- (e) an adapter that nobody gave to the optimiser -------------------------------------------------------------
def test_an_adapter_that_is_not_in_the_optimiser(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LatentWire.groups

    def wrong(self: LatentWire) -> dict[str, Any]:
        return {name: params for name, params in right(self).items() if not name.startswith("adapter")}

    monkeypatch.setattr(LatentWire, "groups", wrong)
    rung, bad = climb(*LATER)
    assert rung == 3
    assert "in no group of the optimiser: wire.injectors.pocket_llama.adapter" in bad["found"]
    assert "LatentWire.groups()" in bad["remedy"]


def test_an_adapter_that_no_stage_trains(climb: Any) -> None:
    only = "stages=[{_target_:latentwire.train.Period,name:latents,trains:[encoder,injector]}]"
    rung, bad = climb(*LATER, only)
    assert rung == 3
    assert "no stage trains adapter:pocket_llama" in bad["found"]
    assert "stages.<n>.trains" in bad["remedy"]


# -- (d) one mean in every slot -----------------------------------------------------------------------------------
def one_mean(self: ChunkMean, x: torch.Tensor, mask: Any, lengths: torch.Tensor, slots: Any) -> torch.Tensor:
    return (x.sum(1) / lengths[:, None])[:, None].expand(-1, sum(slots), -1)


def test_one_mean_repeated_in_every_slot(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns the examples by heart: the effective rank of the slots gives it away, one rung higher."""
    monkeypatch.setattr(ChunkMean, "pool", one_mean)
    rung, bad = climb(*LATER)
    assert rung == 4
    assert "slots of a message have an effective rank of 0 of" in bad["found"]
    assert "encoder.pooling" in bad["remedy"]


# -- (f) LoRA weights missing from the checkpoint -----------------------------------------------------------------
LORA = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}"


def without_lora(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if ".lora." not in name}


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = config(tmp_path_factory.mktemp("lora"), LORA, "encoder=lm_lora", "encoder.rank=2", "trainer.max_epochs=1")
    fit(cfg)
    return run_dir(cfg)


@pytest.mark.parametrize("lost", ["readers, in the file", "readers, in the manifest too", "encoder"])
def test_lora_weights_that_are_not_in_the_checkpoint(climb: Any, lora_run: Path, lost: str) -> None:
    path = lora_run / "checkpoints" / "best.ckpt"
    whole = torch.load(path, weights_only=True)
    state, manifest = dict(whole["state_dict"]), dict(whole["manifest"])
    if lost == "encoder":
        state = {name: t for name, t in state.items() if not name.startswith("wire.encoder.lora.")}
    else:
        state = {name: t for name, t in state.items() if not name.startswith("wire.lora.")}
    if "manifest" in lost:
        manifest["tensors"] = {name: e for name, e in manifest["tensors"].items() if name in state}
    try:
        torch.save({**whole, "state_dict": state, "manifest": manifest}, path)
        rung, bad = climb(f"run={lora_run}", "ladder.first=5")
    finally:
        torch.save(whole, path)
    assert rung == 5
    expected = "wire.encoder.lora." if lost == "encoder" else "wire.lora.tiny_llama."
    assert expected in bad["found"]
    assert "is not in the checkpoint" in bad["found"]
    assert "callbacks.manifest" in bad["remedy"]
    assert json.loads((lora_run / "ladder.json").read_text(encoding="utf-8"))["passed"] is False


def test_lora_that_the_wire_does_not_hold_is_named_before_it_is_trained(
    climb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LatentWire.__init__

    def wrong(self: LatentWire, *args: Any) -> None:
        encoder, codec, injectors, layout, meaning, _, whole = args
        right(self, encoder, codec, injectors, layout, meaning, None, whole)

    monkeypatch.setattr(LatentWire, "__init__", wrong)
    rung, bad = climb(*LATER, "+adaptation.pocket_llama={_target_:latentwire.lm.LoRA,rank:2}")
    assert rung == 3
    assert "LoRA of pocket_llama" in bad["found"]


def test_the_whole_checkpoint_passes_and_gives_its_metric_again(climb: Any, lora_run: Path) -> None:
    """A random model does not beat anything: rung 5 fails behind the checkpoint, and says that training is due."""
    rung, bad = climb(f"run={lora_run}", "ladder.first=5")
    assert rung == 5
    values = {c["name"]: c["value"] for c in bad["checks"]}
    assert values["trained tensors that are not in the checkpoint"] == 0
    assert values["largest difference to the recorded metrics"] == 0
    assert "is not better than no_context" in bad["found"]


def test_a_recorded_metric_that_the_weights_do_not_have(climb: Any, lora_run: Path) -> None:
    path = lora_run / "checkpoints" / "best.ckpt"
    whole = torch.load(path, weights_only=True)
    own = {**whole["latentwire"], "val": {**whole["latentwire"]["val"], "nll": whole["latentwire"]["val"]["nll"] + 0.1}}
    try:
        torch.save({**whole, "latentwire": own}, path)
        rung, bad = climb(f"run={lora_run}", "ladder.first=5")
    finally:
        torch.save(whole, path)
    assert rung == 5
    assert "the reloaded wire has nll" in bad["found"]


# -- the same at full size ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_one_mean_repeated_in_every_slot_as_a_user_would_climb(climb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkMean, "pool", one_mean)
    rung, bad = climb("experiment=pocket_smoke")
    assert rung == 4
    assert "encoder.pooling" in bad["remedy"]


@pytest.mark.slow
def test_a_trained_wire_with_lora_holds_until_its_lora_is_lost(climb: Any, tmp_path: Path) -> None:
    rung, found = climb("experiment=pocket_smoke", "+adaptation.pocket_llama={_target_:latentwire.lm.LoRA,rank:4}",
                        "train=true")  # fmt: skip
    assert rung is None
    assert [v["status"] for v in found["verdicts"]] == ["pass"] * 7
    curve = found["verdicts"][6]["curve"]
    assert curve[0]["label"] == "trained"
    assert curve[0]["holds"]
    assert [p["bytes"] for p in curve] == sorted((p["bytes"] for p in curve), reverse=True)
    run = tmp_path / "runs" / "pocket_smoke" / found["hash"]
    assert (run / "ladder.json").is_file()
    path = run / "checkpoints" / "best.ckpt"
    whole = torch.load(path, weights_only=True)
    torch.save({**whole, "state_dict": without_lora(whole["state_dict"])}, path)
    rung, bad = climb(f"run={run}", "ladder.first=5")
    assert rung == 5
    assert "wire.lora.pocket_llama." in bad["found"]
