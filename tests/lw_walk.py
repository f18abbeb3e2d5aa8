"""Every option of every group of the latentwire tree on pairs of readers, and what each needs beside it to be small."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lw_disk import save_disk_models
from lw_runs import config
from lw_toys import save_sentence_model
from omegaconf import DictConfig

from latentwire.run import Tree, judge
from suite.config.check import check
from suite.config.compose import Composer

COMPOSER = Composer("latentwire")
DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2] / "shared" / "data"))
PAIRS: dict[str, list[str]] = {
    "pocket": ["readers=pocket_both"],
    "disk": ["readers=hf", "hf.source={llama3}", "+lm@lms.second=hf", "lms.second.source={qwen25}",
             "lms.second.name=second"],
    "disk_turned": ["readers=hf", "hf.source={qwen25}", "+lm@lms.second=hf", "lms.second.source={llama3}",
                    "lms.second.name=second"],
}  # fmt: skip
NAMES = {"pocket": ("pocket_llama", "pocket_qwen"), "disk": ("hf", "second"), "disk_turned": ("hf", "second")}
# groups whose options no run of a wire reads, with the tests that walk them
ELSEWHERE = {
    "launcher": "tests/config/test_launchers.py",
    "logger": "tests/e2e/test_tracked_runs.py",
    "pocket": "tests/unit/test_lw_pocket.py",
}
FITTED = "encoder=pca"
# a run has so many steps, and one that is stopped does not come to the middle one
STEPS = {"curriculum=bits": 8, "curriculum=from_text": 6, "curriculum=reconstruct_then_generate": 6,
         "curriculum=byte_alignment": 6, "curriculum=squad_hero": 6, "curriculum=squad": 4, "curriculum=adaptation": 4,
         "curriculum=ratio": 4, "curriculum=ratio_16": 6, "curriculum=states_first": 4, "experiment=squad_llama": 4,
         "experiment=squad_qwen": 4, "experiment=squad_dual": 4, "experiment=squad_hero": 6,
         "averaging=swa": 4, "smoke=bytes": 6, "smoke=lora": 4, "smoke=ratio": 4, "smoke=soft_prefix": 6}  # fmt: skip
EQUAL = [f"stages.{n}.share=1.0" for n in range(5)]
LORA = ["+adaptation@adaptation.{first}=lora", "+adaptation@adaptation.{second}=lora_first"]
BY_RATIO = ["wire.slots=null", "wire.ratio=16"]
BIG = ["encoder.heads=2", "injector.width=16", "placement.checkpointing=true", "trainer.accelerator=cpu"]
OWN = ["corpus.path={data}/mine.jsonl"]
SQUAD = ["corpus.root={data}/squad", "corpus.train=null"]
TUNED = [*BIG, *SQUAD, "loader.accumulate=2", "loader.workers=0"]
LLAMA = ["lms.llama31_8b.source={llama3}", "lms.llama31_8b.dtype=float32"]
QWEN = ["lms.qwen25_7b.source={qwen25}"]
FULL = ["trainer.precision=32-true"]
# sizes that the option's own do not fit tiny models with, and what an option needs beside it
WITH: dict[str, list[str]] = {
    "objective=semantic_anchor": ["encoder=interlingua"],
    "objective=refiner_depth": ["encoder.halting=true"],
    "objective=adapter_l2": ["adapter=channel_affine"],
    "encoder=byte": ["encoder.heads=2", "encoder.max_tokens=2048"],
    "encoder=lm_hidden_narrow": ["encoder.layers=[0,1,2]"],
    "encoder=lm_hidden_wide": ["encoder.layers=[0,1,2]", "encoder.heads=2"],
    "encoder=lm_lora_wide": ["encoder.heads=2"],
    "encoder=st_query": ["encoder.source={sentence}", "encoder.max_tokens=240"],
    "encoder=pca": ["encoder.chunk=40"],
    "adapter=affine": ["wire.d_z=16"],
    "injector=combined": ["injector.heads=2"],
    "injector=latent_adapters": ["injector.heads=2"],
    "injector=sized_prefix": ["injector.heads=2", "injector.length=5"],
    "codec=int8": ["codec.group=8"],
    "codec=int6": ["codec.group=8"],
    "codec=int4": ["codec.group=8"],
    "codec=rvq": ["codec.size=4"],
    "curriculum=adaptation": [*LORA, *EQUAL[:2]],
    "curriculum=bits": ["codec=fsq", "codec.levels=[4]", "codec.codes=8", "codec.spare=16"],
    "curriculum=byte_alignment": ["encoder=byte", "encoder.heads=2", "encoder.gate=true", "encoder.max_tokens=2048",
                                  "stages.0.share=1.0", "stages.1.share=1.0", "stages.0.advance.after=1"],
    "curriculum=from_text": ["injector=soft_prefix", *BY_RATIO, *EQUAL],
    "curriculum=nested": ["wire.nested.budgets=[2,1]"],
    "curriculum=ratio": [*BY_RATIO, *EQUAL[:2]],
    "curriculum=ratio_16": [*BY_RATIO, *EQUAL[:3]],
    "curriculum=reconstruct_then_generate": [
        *EQUAL[:3], "stages.0.batch_size=2", "stages.1.batch_size=2", "stages.0.advance.after=1",
        "stages.0.require.after=2", "stages.0.require.above=-1.0",
    ],
    "curriculum=several_ratios": ["wire.slots=8"],
    "curriculum=squad": [*LORA, *EQUAL[:2]],
    "curriculum=squad_hero": [*LORA, *BY_RATIO, *EQUAL[:3]],
    "curriculum=states_first": EQUAL[:2],
    "callbacks=wire_by_objective": ["callbacks.objective_norms.every=1", "objective=[answer_ce,answer_kd]"],
    "averaging=swa": ["callbacks.averaging.start=1", "callbacks.averaging.every=1", "callbacks.averaging.swa_lr=0.01"],
    "corpus=jsonl": [*OWN, "loader.questions=1", "loader.eval_questions=1", "corpus.begin=12", "corpus.rest=8"],
    "corpus=text": ["corpus.path={data}/texts", "loader.questions=1", "loader.eval_questions=1", "corpus.begin=12",
                    "corpus.rest=8"],
    "corpus=qa": ["corpus.path={data}/qa.jsonl"],
    "corpus=squad": SQUAD,
    "corpus=stories": ["paths.data={files}", "corpus.begin=24", "corpus.rest=8", "corpus.train=20", "corpus.val=8",
                       "corpus.test=8", "loader.questions=1", "loader.eval_questions=1"],
    "corpus=lost_boundary": ["corpus.slots=3"],
    "setting=squad": [*BIG, "encoder.max_tokens=240", "wire.slots=null", "loader.workers=0", "loader.accumulate=2"],
    "experiment=pocket": [],
    "experiment=pocket_smoke": [],
    "experiment=qa": ["corpus.path={data}/qa.jsonl"],
    "experiment=text": ["corpus.path={data}/texts", "corpus.begin=12", "corpus.rest=8", "loader.questions=1",
                        "loader.eval_questions=1"],
    "experiment=stories": ["paths.data={files}", "corpus.begin=24", "corpus.rest=8", "corpus.train=20", "corpus.val=8",
                           "corpus.test=8", "loader.questions=1", "loader.eval_questions=1"],
    # in the precision that they name on Qwen alone: without an accelerator a vocabulary of 128 256 takes a minute in it
    "experiment=squad_llama": [*TUNED, *EQUAL[:2], *FULL, *LLAMA],
    "experiment=squad_qwen": [*TUNED, *EQUAL[:2], *QWEN],
    "experiment=squad_dual": [*TUNED, *EQUAL[:2], *FULL, *LLAMA, *QWEN, "lms.qwen25_7b.dtype=float32"],
    "experiment=squad_hero": [*TUNED, *EQUAL[:3], *FULL, *LLAMA, *QWEN, "lms.qwen25_7b.dtype=float32",
                              "wire.slots=null", "codec.group=8"],
    "readers=hf": ["hf.source={llama3}"],
    "readers=llama31_8b": LLAMA[:1],
    "readers=qwen25_7b": QWEN,
    "readers=llama_and_qwen": [*LLAMA, *QWEN],
    "readers=stories260k": ["paths.data={files}"],
    "lm=hf": ["lms.more.source={llama3}"],
    "lm=llama31_8b": ["lms.more.source={llama3}", "lms.more.dtype=float32"],
    "lm=qwen25_7b": ["lms.more.source={qwen25}"],
    "lm=stories260k": ["paths.data={files}"],
}  # fmt: skip
# features that stand on options of other groups, with what those need
for feature, option in (
    ("bytes", "curriculum=byte_alignment"), ("latent_adapters", "injector=latent_adapters"), ("rvq", "codec=rvq"),
    ("ratio", "curriculum=ratio"), ("nested", "curriculum=nested"), ("soft_prefix", "curriculum=from_text"),
):  # fmt: skip
    WITH[f"smoke={feature}"] = [o for o in WITH[option] if o not in ("encoder=byte", "injector=soft_prefix")]
WITH["smoke=nested"] += ["evaluation.slots=[2,1]"]
WITH["smoke=lora"] = EQUAL[:2]
# options that choose readers themselves: they are walked once
OWN_READERS = ("readers", "lm")
OF_THE_POCKET = {"smoke=lora"}  # names its reader
IN_EXPERIMENT = {f"squad_{name}" for name in ("llama", "qwen", "dual", "hero")} | {"stories"}


@dataclass(frozen=True)
class Case:
    """One option on one pair of readers."""

    pair: str
    group: str
    option: str

    @property
    def key(self) -> str:
        return f"{self.group}={self.option}"

    @property
    def id(self) -> str:
        return f"{self.pair}-{self.key}"

    @property
    def steps(self) -> int:
        return STEPS.get(self.key, 2)

    @property
    def needs_run(self) -> bool:
        """Whether it goes on from a part of a finished run of the same readers."""
        return self.key == "smoke=frozen_encoder"

    @property
    def needs_files(self) -> bool:
        """Whether it reads stories260k, whose files are fetched."""
        return "stories" in self.option


def groups() -> dict[str, list[str]]:
    """The options of every group."""
    return {group: COMPOSER.options(group) for group in COMPOSER.groups() if COMPOSER.options(group)}


def cases() -> Iterator[Case]:
    """Every option on both pairs, those that stand on the first reader on the pair from a disk both ways."""
    for group, options in groups().items():
        for option in options if group not in ELSEWHERE else ():
            if group in OWN_READERS or (group == "experiment" and option in IN_EXPERIMENT):
                yield Case("own", group, option)
                continue
            disk = ["disk", *(["disk_turned"] if group in ("encoder", "pooling") else [])]
            pairs = ["pocket", *(disk if f"{group}={option}" not in OF_THE_POCKET else [])]
            yield from (Case(pair, group, option) for pair in pairs)


def places(folder: Path) -> dict[str, str]:
    """The files that the walk reads: models of a disk, a sentence encoder, corpora of one's own."""
    data = folder / "data"
    if not data.exists():
        (data / "texts").mkdir(parents=True)
        (data / "squad").mkdir()
        people = ("Anna", "Bert", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jakob")
        towns = ("Rome", "Oslo", "Bern", "Paris", "Lima")
        told = [f"{who} lives in {where}. {who} was born in {towns[i - 1]} and works there as a baker near the river. "
                "The baker likes plums, and her friend sees her there every day."
                for who in people for i, where in enumerate(towns)]  # fmt: skip
        for n, text in enumerate(told):
            (data / "texts" / f"{n}.txt").write_text(text, encoding="utf-8")
        rows = [{"text": text} for text in told]
        asked = [{"context": t, "questions": [{"question": f"Where does {t.split()[0]} live?",
                                               "answers": [t.split()[3][:-1]]}]} for t in told]  # fmt: skip
        for name, lines in (("mine", rows), ("qa", asked)):
            (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
        articles = [{"title": f"t{n}", "paragraphs": [{"context": a["context"], "qas": [
            {"id": f"{n}", "question": q["question"], "answers": [
                {"text": q["answers"][0], "answer_start": a["context"].index(q["answers"][0])}]}
            for q in a["questions"]]}]} for n, a in enumerate(asked)]  # type: ignore[attr-defined, index]  # fmt: skip
        (data / "squad" / "dev-v1.1.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    return {**save_disk_models(folder), "data": str(data), "sentence": save_sentence_model(folder), "files": str(DATA)}


def lines(case: Case, at: dict[str, str]) -> list[str]:
    """The command line of a case, without `SMALL`."""
    group, option, chosen = case.group, case.option, [case.key]
    if group == "objective":
        chosen = [f"objective=[{','.join(dict.fromkeys(['answer_ce', option]))}]"]
    elif group == "baseline":
        chosen = [f"baseline=[{','.join(dict.fromkeys(['text', option]))}]"]
        chosen += ["wire.track=whole_prompt"] if option == "whole_prompt_budget" else []
    elif group == "pooling":
        chosen = ["pooling@encoder.pooling=" + option]
    elif group == "adaptation":
        chosen = [f"+adaptation@adaptation.{{first}}={option}", "adaptation.{first}.dropout=0.5"]
    elif group == "lm":
        chosen = ["readers=pocket_llama", f"+lm@lms.more={option}"]
    elif group == "setting":
        chosen = [f"+setting={option}"]
    readers = PAIRS.get(case.pair, [])
    # an experiment chooses readers of its own, which stand behind those of the line
    whole = [*readers, *chosen, *WITH.get(case.key, [])]
    first, second = NAMES.get(case.pair, ("", ""))
    named = {**at, "first": first, "second": second}
    for key, value in named.items():
        whole = [o.replace(f"{{{key}}}", value) for o in whole]
    n = case.steps
    # with so few slots, so narrow, a trained reader may be certain of wrong tokens
    return [f"loader.steps_per_epoch={n}", f"callbacks.audit.within={n}", "callbacks.uniform_bound.margin=20",
            "trainer.max_epochs=1", "callbacks.checkpoint.every_n_steps=1", "~acceptance", "+acceptance={}",
            *whole]  # fmt: skip


def tree(case: Case, folder: Path, at: dict[str, str], runs: str = "runs", more: Sequence[str] = ()) -> DictConfig:
    """The tree of a case, bound to its schema and judged as the program does before any job."""
    cfg = config(folder, *lines(case, at), *more, lms=None, runs=runs)
    check(cfg, Tree)
    judge(cfg)
    return cfg


def facts(loaded: Any) -> tuple[str, list[str]]:
    """A text of the run's own corpus and what is asked about it; a continuation has no question."""
    passage = loaded.inputs.corpus.split("train")[0]
    return passage.text, [passage.questions[0].text or "Where does Anna live?"]
