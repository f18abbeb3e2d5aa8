"""Every command of the README, as written, on small data: shorter, but by no other words than those of `SHORTER`."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import media_trees
import pytest
from asgml_runs import write_features
from lw_runs import save_lm

from asgml.feedback.data.generator import write_surfaces

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SUITE_DATA", ROOT.parent / "shared" / "data"))
COMMANDS = re.findall(r"`python -m ([^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))

QUIET = ["callbacks.progress=null"]
CLIPS = ["data.samples=144", "trainer.max_epochs=1"]
DIGITS = ["loader.limit=64", "trainer.max_epochs=1"]
MEDIA = ["data.size=32", "data.store=[32,32]", "loader.batch_size=8", "loader.workers=0", "trainer.max_epochs=1"]
WIRE = ["loader.steps_per_epoch=2", "loader.batch_size=2", "loader.eval_passages=2", "evaluation.passages=2",
        "wire.measured_texts=32", "baseline=[text,token_budget]"]  # fmt: skip
PLAN = ["plan=true"]  # what more than this machine can do is composed, checked and foreseen
# Words behind a command, by its beginning; the longest that fits counts.
SHORTER: dict[str, list[str]] = {
    "asgml.run": [*CLIPS, *QUIET],
    "asgml.run list": [],
    "asgml.run experiment=cremad_mini plan=true": [],
    "asgml.run debug=overfit": ["data.samples=144", *QUIET],
    "asgml.run -m sweep=methods": [*DIGITS, *QUIET, "method=joint,uniform,ogm_ge"],
    "asgml.run experiment=avdigits": [*DIGITS, *QUIET],
    "asgml.run experiment=cremad": [*MEDIA, *QUIET],
    "asgml.run -m experiment=cremad data.path=DIR seed": PLAN,
    "asgml.run experiment=cremad_mini": [*CLIPS, *QUIET],
    "asgml.run experiment=cremad data.path=DIR trainer.devices": PLAN,
    "asgml.run experiment=cremad data.path=DIR trainer.precision": PLAN,
    "asgml.run experiment=table": ["data.size=8", "data.store=[8,8]", "data.mels=8", "data.seconds=0.2",
                                   "loader.batch_size=8", "trainer.max_epochs=1", *QUIET],
    "asgml.run experiment=features": ["trainer.max_epochs=1", "loader.batch_size=8", *QUIET],
    "asgml.run extend=RUN": QUIET,
    "asgml.tune": ["trials=2", "seeds=[1]", *DIGITS, *QUIET],
    "asgml.study": PLAN,
    "asgml.data.prepare": MEDIA[:2],
    "latentwire.run experiment=pocket": [*WIRE, *QUIET],
    "latentwire.run experiment=squad": PLAN,
    "latentwire.run experiment=qa": [*WIRE, "encoder.max_tokens=200", "trainer.max_epochs=1", *QUIET],
    "latentwire.run experiment=text": [*WIRE, "encoder.max_tokens=200", "corpus.begin=16", "corpus.rest=8",
                                       "trainer.max_epochs=1", *QUIET],
    "latentwire.study family": ["trainer.max_epochs=1", "loader.steps_per_epoch=2", "evaluation.passages=2", *QUIET],
    "latentwire.study embed_transforms": ["--passages", "2", "--readers", "pocket_llama"],
    "latentwire.study anchors": ["--passages", "2", "--readers", "pocket_llama"],
    "latentwire.study sequence_compression": ["--passages", "2", "--seeds", "0", "--steps", "4", "--rates", "1e-3"],
    "latentwire.study lost": ["--passages", "2"],
    "latentwire.study lost_trained": PLAN,
    "latentwire.study pca_adapter": ["--passages", "2", "--seeds", "0", "--steps", "4", "--dimensions", "8",
                                     "--rates", "1e-3"],
    "latentwire.study annealing": ["--passages", "2", "--seeds", "0", "--steps", "4", "--weights", "1",
                                   "--rates", "1e-3"],
    "asgml.feedback.run": ["data.good=3", "data.per_defect=2", "stages.text.epochs=1", "stages.image.epochs=1", *QUIET],
}  # fmt: skip
# What a command may end with beside 0: a wire of two steps misses what is asked of it; SQuAD and the data sets of the
# study are not here, nor is a SLURM cluster, nor a finished catalogue.
ENDS = {
    "latentwire.study lost": 2,
    "latentwire.study lost_trained": 0,
    "asgml.run -m experiment=cremad data.path=DIR seed": 2,
    "asgml.run experiment=cremad data.path=DIR trainer.devices": 2,
    "asgml.study settle": 2,
    "latentwire.run experiment=pocket": 3,
    "latentwire.run experiment=qa": 3,
    "latentwire.run experiment=squad": 2,
    "latentwire.evaluate": 3,
    "latentwire.ladder": 1,
}


def longest(command: str, table: dict[str, list[str]] | dict[str, int]) -> str | None:
    return max((begins for begins in table if command.startswith(begins)), key=len, default=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the README's words stand for, but the runs, which its own commands make."""
    here = tmp_path_factory.mktemp("readme")
    media_trees.cremad(here / "DIR")
    media_trees.table(here / "mine").rename(here / "mine" / "F.csv")
    for name, seed in (("F", 0), ("new", 1), ("other", 1)):
        write_features(here / f"{name}.npz", seed=seed)
    question = {"question": "Where does Ann live?", "answers": ["Rome"]}
    lines = [json.dumps({"context": f"Ann {i} lives in Rome.", "questions": [question]}) for i in range(40)]
    (here / "F.jsonl").write_text("\n".join(lines))
    surfaces = write_surfaces(here / "MVTEC", ("tiles", "granite"), size=48, train=0, good=2, per_defect=1)
    (here / "PICTURES").symlink_to(surfaces / "tiles" / "test" / "scratch")
    (here / "TEXTS").mkdir()
    for i in range(40):
        (here / "TEXTS" / f"{i}.txt").write_text(f"Ann {i} lives in Rome, and Ben in Oslo. " * 12)
    (here / "data").mkdir()
    for name in ("fsdd", "mnist"):
        if (DATA / name).is_dir():
            (here / "data" / name).symlink_to(DATA / name)
    Path(save_lm(here / "lm")).rename(here / "MODEL")
    return here


def finished(folder: Path, command: str) -> Path:
    """The run that RUN stands for: of the features, of AV-digits where its weights are taken, of surfaces; a wire."""
    if command.startswith("asgml.feedback"):
        name = "surfaces"
    elif command.startswith("latentwire"):
        name = "pocket"
    else:
        name = "avdigits" if "avdigits" in command else "features"
    done = [p.parent for p in folder.glob(f"runs/{name}/*/result.json")]
    assert done, f"no finished run in runs/{name}: an earlier command of the README makes one"
    return min(done, key=lambda p: (p / "result.json").stat().st_mtime)


def test_every_shortening_is_of_a_command() -> None:
    assert len(COMMANDS) > 35
    assert all(any(c.startswith(begins) for c in COMMANDS) for begins in SHORTER)


@pytest.mark.parametrize("command", COMMANDS)
def test_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if "avdigits" in command and not (folder / "data" / "fsdd").exists():
        pytest.skip("no recordings and pictures of digits")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    module, *words = shlex.split(command)
    if "-m" in words:  # one value of each list is enough
        words = [re.sub(r"=[^,]*,(?:.*,)?", "=", w) if "," in w else w for w in words]
    words = [re.sub(r"(max_epochs|passages)=\d+", r"\1=3", w) for w in words]
    if "RUN" in command:
        words = [w.replace("RUN", str(finished(folder, command))) for w in words]
    if "F.csv" in command:
        words = [w.replace("F.csv", "mine/F.csv") for w in words]
    if module == "latentwire.encode":
        from latentwire.restore import load

        loaded = load(finished(folder, command))
        (folder / "story.txt").write_text(loaded.inputs.corpus.split("test")[0].text)
    begins = longest(command, SHORTER)
    for word in SHORTER[begins] if begins is not None else []:
        if word.partition("=")[0] not in {w.lstrip("+").partition("=")[0] for w in words}:
            words.append(word)
    monkeypatch.setattr(sys, "argv", [module, *words])
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    told = capsys.readouterr()
    allowed = longest(command, ENDS)
    assert code in {0, ENDS[allowed] if allowed is not None else 0}, told.err + told.out
    assert "Traceback" not in told.err + told.out
    assert code != 2 or "remedy" in told.err
