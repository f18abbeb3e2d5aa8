"""Whatever a command line says, it is accepted or refused on one screen, in a moment, before anything is trained."""

from __future__ import annotations

import io
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
from asgml_runs import write_features
from fuzzing import COUNTS
from hydra._internal.utils import get_args_parser
from hypothesis import event, given
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig
from profiles import examples

from asgml import run as asgml
from asgml.feedback import run as feedback
from callbacks.errors import UserError
from latentwire import run as latentwire
from suite.config.compose import Composer
from suite.config.signature import locate, parameters
from suite.runs.foreseen import show_plan
from suite.runs.planning import composed, judged

SCREEN = 60  # lines
MOMENT = 8.0  # seconds of this process; most take a third of one

NUMBERS = (
    "nan inf -inf -1 0 1 2 3 -0.0 0.5 1.0 1.5 1e-30 1e30 1e39 -1e308 1e-400 4294967296 99999999999999999999999 -7"
).split()
OTHERS = [
    "null", "true", "false", "auto", "nothing", "''", "???", "' '", "a/b", "../x", "'a b'", "'é漢'",
    "'${seed}'", "'${nope}'", "[]", "{}", "[1]", "[0]", "[-1]", "[1,2]", "[nan]", "[null]", "[[]]", "[a,b]",
    "[1,a,{}]", "[{}]", "{a:1}", "{a:null}", "{a:{b:[]}}", "{1:2}", "{_target_:null}", "{_target_:5}",
    "{_target_:''}", "{_target_:nowhere.X}", "{_target_:math.pi}", "{_target_:collections.OrderedDict}",
    "{_target_:latentwire.codec.FP16}", "{_partial_:true}",
    "{_target_:callbacks.StepGate,max_consecutive_skips:0}", "{_target_:callbacks.StepGate,_partial_:maybe}",
]  # fmt: skip
# What a choice leaves to its user: without it nothing else of the line would be looked at.
OPEN = {
    "hf": "hf.source=models/mine",
    **dict.fromkeys(("text", "jsonl", "qa"), "corpus.path=mine"),
    **dict.fromkeys(("features", "table"), "data.path=mine"),
    **dict.fromkeys(("mvtec", "visa", "magnetic_tile", "mvtec_feedback", "visa_feedback"), "data.root=mine"),
    "unimodal": "methods.unimodal.modality=audio",
}
LISTS = ("objective", "baseline", "logger")


@dataclass(frozen=True)
class Subject:
    """A program as its command line has it."""

    name: str
    module: ModuleType


SUBJECTS = {
    "asgml": Subject("asgml", asgml),
    "latentwire": Subject("latentwire", latentwire),
    "feedback": Subject("asgml.feedback", feedback),
}


@cache
def composer(program: str) -> Composer:
    return Composer(program)


@cache
def keys(program: str, choices: tuple[str, ...]) -> tuple[tuple[str, Any, tuple[str, ...]], ...]:
    """Every key of a composed tree, entries of lists included: its value as it is written, the words that it takes."""
    found: list[tuple[str, Any, tuple[str, ...]]] = []

    def walk(node: Any, above: str) -> None:
        names = list(node) if isinstance(node, DictConfig) else range(len(node))
        types = parameters(locate(node._target_)).annotations if "_target_" in names else {}
        for name in names:
            key = f"{above}.{name}" if above else str(name)
            child = node._get_node(name)
            found.append((key, child._value(), tuple(words(types.get(name)))))
            if isinstance(child, DictConfig | ListConfig) and not (child._is_none() or child._is_missing()):
                if not child._is_interpolation():
                    walk(child, key)

    try:
        walk(composer(program).compose(choices), "")
    except UserError:
        return (("seed", 0, ()),)
    return tuple(found)


@st.composite
def choices(draw: st.DrawFn, program: str, sane: bool) -> list[str]:
    """Options of some groups, in lines that need not be sane also those that there are not."""
    groups = [g for g in composer(program).groups() if g not in ("debug", "sweep", "pocket", "setting", "lm", "rhythm")]
    line = []
    for group in draw(st.lists(st.sampled_from(groups), max_size=3, unique=True)):
        options = composer(program).options(group)
        several = st.lists(st.sampled_from(options), max_size=4).map(lambda names: f"[{','.join(names)}]")
        option = st.sampled_from(options) | (several if group in LISTS else st.nothing())
        chosen = draw(option if sane else option | st.sampled_from(["null", "nothing", "[]"]))
        place = {"pooling": "pooling@encoder.pooling", "fault": "+fault"}.get(group, group)
        line += [f"{place}={chosen}", *([OPEN[chosen]] if chosen in OPEN else [])]
    return line


def words(annotation: Any) -> Iterator[str]:
    """The words that an annotation names."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for inner in get_args(annotation):
            yield from words(inner)


def plausible(value: Any, taken: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Values of the kind that a key has, which come past the types, to what fits together or does not."""
    if taken:
        return st.sampled_from(taken)
    if isinstance(value, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(value, int):
        return st.sampled_from(["1", "2", "3", "8", str(value + 1), str(2 * value), str(value // 2), "null", "0"])
    if isinstance(value, float):
        return st.sampled_from(["0.0", "0.1", "0.5", "1.0", "2.0", str(value / 2), "null", "1000"])
    if isinstance(value, str):
        return st.sampled_from(["auto", "all", "none", "fusion", "batch", "audio", "null", "last", value])
    return st.sampled_from(["null", "null", "[]", "[1]", "[audio]", "{}", "{audio:1}", "{pocket_llama:1}", "1", "true"])


@st.composite
def overrides(draw: st.DrawFn, known: tuple[tuple[str, Any, tuple[str, ...]], ...], sane: bool) -> str:
    """One override of a key that is there, or of one that is not."""
    if sane:
        known = tuple(k for k in known if k[0] != "program" and not k[0].endswith("_"))
    key, before, taken = draw(st.sampled_from(known))
    if sane:
        kind = draw(st.sampled_from(["set"] * 15 + ["delete"]))
        return f"~{key}" if kind == "delete" else f"{key}={draw(plausible(before, taken))}"
    value = draw(st.sampled_from(NUMBERS) | st.sampled_from(OTHERS) | st.integers().map(str) | st.floats().map(str))
    kind = draw(st.sampled_from(["set"] * 12 + ["add", "force", "delete", "misspell", "below"]))
    return {
        "set": f"{key}={value}",
        "add": f"+{key}={value}",
        "force": f"++{key}={value}",
        "delete": f"~{key}",
        "misspell": f"{key[:-1]}={value}",
        "below": f"+{key}.{draw(st.sampled_from(['audio', 'x', '0', '_target_', 'pocket_llama']))}={value}",
    }[kind]


@st.composite
def lines(draw: st.DrawFn, subject: Subject, table: Path) -> list[str]:
    """A command line: choices of groups, then overrides of what they compose; asgml reads a table where none is."""
    sane = draw(st.sampled_from([True, True, False]))
    chosen = draw(choices(subject.name, sane))
    if subject.module is asgml and not any(word.startswith(("data=", "experiment=")) for word in chosen):
        chosen = ["experiment=features", f"data.path={table}", *chosen]
    known = keys(subject.name, tuple(chosen))
    seeds = draw(st.sampled_from(["0,1", "1,1", "range(2)", "choice(0,x)", "interval(0,1)", "0,"]))
    sweep = ["-m", f"seed={seeds}"] if draw(st.sampled_from([False] * 9 + [True])) else []
    return [*sweep, *chosen, *draw(st.lists(overrides(known, sane), max_size=3, min_size=0 if sane else 1))]


def outcome(subject: Subject, line: list[str]) -> str:
    """What becomes of a line under `plan=true`: `accepted`, `refused`, or why it is a failure."""
    args = get_args_parser().parse_args(line)
    module, begun = subject.module, time.process_time()
    try:
        jobs = judged(composed(subject.name, args, None, module.Tree), module.dead, module.Tree, module.judge)
        with redirect_stdout(io.StringIO()):
            show_plan(jobs, getattr(module, "foresee", None))
        found = "accepted"
    except UserError as error:
        found = "refused" if 3 < len(str(error).splitlines()) < SCREEN else f"not one screen:\n{error}"
    except BaseException:  # noqa: BLE001 (whatever it is, the line has to be told with it)
        found = traceback.format_exc()
    took = time.process_time() - begun
    return found if took < MOMENT else f"{took:.1f} seconds"


@pytest.mark.parametrize("program", SUBJECTS)
def test_a_command_line_is_accepted_or_refused_on_one_screen(program: str, tmp_path: Path) -> None:
    subject = SUBJECTS[program]
    counts = COUNTS.setdefault(f"command lines of {subject.name}", Counter())
    outcome(subject, [])  # imports what all others have there already

    @examples(12)
    @given(lines(subject, write_features(tmp_path / "f.npz")))
    def holds(line: list[str]) -> None:
        found = outcome(subject, line)
        counts["examples"] += 1
        counts[found if found in ("accepted", "refused") else "failed"] += 1
        event(found if found in ("accepted", "refused") else "failed")
        assert found in ("accepted", "refused"), f"python -m {subject.name}.run {' '.join(line)}\n{found}"

    holds()
    assert counts["refused"] > 0
