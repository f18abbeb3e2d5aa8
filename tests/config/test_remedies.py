"""A remedy works as typed: every key and option that a message tells the user to set exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

from asgml.run import Tree
from callbacks.errors import UserError
from suite.config.check import check
from suite.config.compose import Composer, dotted_keys

ROOT = Path(__file__).parents[2]
NODES = (
    "asgml|data|loader|model|fusion|optimizer|lr_schedule|trainer|callbacks|methods|method|group_lr|cosine_every|debug|"
    "loss|label|seed|resume|paths|averaging|sweep|experiment|rhythm"
)
#: `key=value` as it is typed; after `+`, `~` or a letter it is something else
SETTING = re.compile(rf"(?<![\w.+~:-])((?:{NODES})(?:\.\w+)*)=")
#: the experiments whose users can see the messages of a file; of all others everybody's
ONLY = {
    "asgml/data/features.py": ["features"],
    "asgml/data/targets.py": ["features"],
    "asgml/data/lengths.py": ["features"],
    "asgml/data/splits.py": ["features", "table", "cremad", "cremad_mini"],
    "asgml/data/csv_columns.py": ["table"],
    "asgml/data/csv_rows.py": ["table"],
    "asgml/data/csv_table.py": ["table"],
    "asgml/data/new_table.py": ["table"],
    "asgml/data/decoded.py": ["table", "cremad", "cremad_mini", "ave", "kinetics_sounds"],
    "asgml/data/avdigits.py": ["avdigits"],
    "asgml/data/cremad.py": ["cremad", "cremad_mini"],
    "asgml/data/cremad_mini.py": ["cremad_mini"],
    "asgml/data/ave.py": ["ave"],
    "asgml/data/kinetics_sounds.py": ["kinetics_sounds"],
    "asgml/data/media_source.py": ["cremad", "cremad_mini", "ave", "kinetics_sounds"],
    "asgml/data/shards.py": ["table", "cremad", "cremad_mini", "ave", "kinetics_sounds"],
    "asgml/feedback/data/rendered.py": ["surfaces"],
    "asgml/feedback/data/folders.py": ["magnetic_tile", "mvtec_feedback", "visa_feedback"],
}


#: what users have chosen who see the messages of a file, one or the other
CHOSEN = {
    "asgml/model/fusion/film.py": ["fusion=film"],
    "asgml/model/cross_attention.py": ["fusion=cross_attention"],
    "asgml/model/fusion/cross_attention.py": ["fusion=cross_attention"],
    "asgml/model/fusion/transformer.py": ["fusion=transformer"],
    "callbacks/run/averaging.py": ["averaging=swa", "averaging=ema"],
    "callbacks/stages/lr.py": ["lr_schedule=step"],
}


@cache
def tree(program: str, experiment: str, choices: tuple[str, ...]) -> DictConfig:
    given = {"asgml": "++data.path=given", "feedback": "++data.root=given"}[program]
    return Composer(program).compose([f"experiment={experiment}", given, *choices])


@cache
def keys(program: str, experiment: str, choices: tuple[str, ...]) -> set[str]:
    return set(dotted_keys(tree(program, experiment, choices)))


@cache
def groups(program: str) -> set[str]:
    return set(Composer(program).groups())


def settings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every key that a string of a file tells to set, with its line; docstrings and YAML examples left out."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)) if SETTING.search(text) else ():
        if not isinstance(node, ast.Call):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                chosen = "method=unimodal" in part.value  # a whole command, which brings its own keys
                for found in SETTING.finditer("" if chosen else part.value):
                    yield part.lineno, found.group(1)


@cache
def cases() -> list[tuple[str, int, str]]:
    files = [p for package in ("asgml", "callbacks", "suite") for p in sorted((ROOT / package).rglob("*.py"))]
    own = [p for p in files if not {"bench", "reference"} & set(p.parts)]
    return sorted({(str(p.relative_to(ROOT)), line, key) for p in own for line, key in settings(p)})


@pytest.mark.parametrize("path", sorted({c[0] for c in cases()}))
def test_every_key_of_a_remedy_exists_in_every_experiment(path: str) -> None:
    parts = Path(path).parts
    method = Path(path).stem if parts[:2] == ("asgml", "methods") else ""
    own = [f"method={method}"] if method in Composer("asgml").options("method") else []
    choices = [(chosen, *own) for chosen in CHOSEN[path]] if path in CHOSEN else [tuple(own)]
    program = "feedback" if parts[:2] == ("asgml", "feedback") else "asgml"
    wrong = []
    for _, line, key in (c for c in cases() if c[0] == path):
        if key in groups(program) or key.endswith("._"):
            continue
        for experiment in ONLY.get(path, Composer(program).options("experiment")):
            if not any(key in keys(program, experiment, choice) for choice in choices):
                wrong.append(f"{path}:{line} {key} in experiment={experiment}")
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("asgml.mode=stalenes", "asgml.mode=staleness"),
        ("resume=nevr", "resume=never"),
        ("trainer.precision=bf16mixed", "trainer.precision=bf16-mixed"),
        ("data.kinds={note:txt}", "++data.kinds.note=text"),
    ],
)
def test_a_name_of_a_list_is_corrected_to_the_nearest(typed: str, near: str) -> None:
    """Not to the default, which is another one."""
    composer, line = Composer("asgml"), ["experiment=table", "data.path=x.csv"]
    with pytest.raises(UserError) as error:
        check(composer.compose([*line, typed]), Tree)
    assert error.value.remedy == f"did you mean {near}?"
    assert error.value.expected.startswith("one of ")
    check(composer.compose([*line, near]), Tree)
