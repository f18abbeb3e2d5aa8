"""What a program says of itself without running: its page of `--help`, and `list` of what there is to choose."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from callbacks.errors import UserError
from suite.config.compose import Composer, shorten
from suite.runs.command import WIDTH
from suite.runs.display import console

LIST, EXPERIMENT = "list", "experiment"
THERE, ABSENT, GIVEN, MADE = "there", "absent", "to be given", "made at first use"
_DATA_ROOT = re.compile(r"\$\{paths\.(data|cache)\}")
WORDS = (
    ("key=value", "a key of docs/config.md; --cfg job prints the composed tree, runs nothing"),
    ("-m", "a sweep: group=a,b key=1,2; --failed-only repeats what failed or was stopped"),
    ("plan=true", "steps, memory and time of the run, and what it is made of; nothing runs"),
    ("resume=never", "run anew; otherwise the same command continues, or shows the result"),
    ("--config-dir FOLDER", "your own YAML files beside these; --hydra-help for Hydra's own options"),
)


@dataclass(frozen=True)
class About:
    """What a program says of itself.

    Attributes:
        command: what is typed, `python -m asgml.run`.
        what: what it does, in one sentence.
        groups: the configuration groups that a user chooses from, each with its meaning.
        examples: command lines, without the command, each with what it does.
        lists: the words that `list` takes, each with the group that it shows.
        data: the groups whose options read data.
        places: the data of an option, by `group/option`, where its file does not say them: paths below `paths.data`,
            none where the data are made at first use.
        script: the console script that shell completion works with; "" for none.
    """

    command: str
    what: str
    groups: Mapping[str, str]
    examples: Sequence[tuple[str, str]]
    lists: Mapping[str, str]
    data: Sequence[str] = ("data",)
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    script: str = ""


def help_page(about: About, composer: Composer) -> str:
    """Return the help of a program: its groups with one line each, its words, its examples."""
    wide = max(map(len, about.groups))
    lines = [f"{about.command} [experiment=NAME] [group=OPTION] [key=value] …", about.what, "", "Groups:"]
    for group, meaning in about.groups.items():
        names = composer.options(group)
        head = f"  {group:{wide}}  {meaning}: "
        lines.append(head + _fitting(names, WIDTH - len(head)))
    wide = max(len(word) for word, _ in WORDS)
    listed = f"[{'|'.join(about.lists)}]"
    lines += ["", f"{about.command} {LIST} {listed}: names; which data are there", ""]
    lines += [f"  {word:{wide}}  {meaning}" for word, meaning in WORDS]
    if about.script:
        lines.append(f'  completion in bash: eval "$({about.script} -sc install=bash)", then {about.script} key<Tab>')
    lines += ["", "Examples:"]
    lines += [f"  {about.command} {line}  # {what}" for line, what in about.examples]
    return "\n".join(lines)


def _fitting(names: Sequence[str], width: int) -> str:
    """Return as many names as fit into a width, with the number of those left out."""
    return next((text for n in range(len(names), 0, -1) if len(text := shorten(names, n)) <= width), f"{len(names)}")


def show_list(about: About, composer: Composer, words: Sequence[str]) -> None:
    """Print what there is to choose: all lists of a program, or the one that is asked for.

    Args:
        about: the program.
        composer: its composer.
        words: what follows `list` on the command line: the name of a list, and `paths.data=FOLDER`.

    Raises:
        UserError: another word.
    """
    kinds = [w for w in words if "=" not in w]
    for kind in kinds:
        if kind not in about.lists:
            where = f"{about.command} {LIST}"
            expected = f"one of {', '.join(about.lists)}"
            raise UserError(f"{where} {kind}", "no such list", expected, f"{where} {next(iter(about.lists))}")
    tree = composer.compose([w for w in words if "=" in w])
    screen = console()
    for kind in kinds or about.lists:
        screen.print(_table(about, composer, kind, tree))


def _table(about: About, composer: Composer, kind: str, tree: DictConfig) -> Table:
    group = about.lists[kind]
    table = Table(title=f"{kind} ({group}=NAME)", title_justify="left", box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    found = dict.fromkeys(composer.options(group), "")
    if group in (*about.data, EXPERIMENT):
        found = {name: state(data_of(about, composer, group, name, tree)) for name in found}
    if any(found.values()):
        table.add_column("data", overflow="fold")
    for name, told in found.items():
        cells = [name, escape(described(composer, group, name))]
        if any(found.values()):
            cells.append(f"[{'green' if told == THERE else 'yellow'}]{escape(told)}[/]" if told else "")
        table.add_row(*cells)
    return table


def described(composer: Composer, group: str, name: str) -> str:
    """Return the first sentence of the comment at the head of an option's file; else that of the code behind it."""
    path = _file(composer, group, name)
    if path is None:
        return ""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.lstrip("# "))
    if head:
        return re.split(r"(?<=[.;])\s", " ".join(head), maxsplit=1)[0].rstrip(".:;")
    return next((_docstring(line.split()[1]) for line in lines if line.startswith("_target_:")), "")


def data_of(about: About, composer: Composer, group: str, name: str, tree: DictConfig) -> dict[str, str]:
    """Return the places of an option's data, each with `there`, `absent`, `to be given` or `made at first use`.

    Its data are what refers to `paths.data` or `paths.cache`, and what has to be given (`???`), unless `About.places`
    says otherwise; those of an experiment are those of the groups that it or the primary configuration chooses.
    """
    own = about.places.get(f"{group}/{name}")
    if own is not None:
        known = {place: Path(str(tree.paths.data)).expanduser() / place for place in own}
        return {place: THERE if path.exists() else ABSENT for place, path in known.items()} or {name: MADE}
    path = _file(composer, group, name)
    if path is None:
        return {}
    node = OmegaConf.load(path)
    assert isinstance(node, DictConfig)
    found: dict[str, str] = {}
    _places(node, f"{group if group in tree else name}.", tree.paths, found)
    chosen = dict(map(_choice, node.get("defaults") or []))
    if group == EXPERIMENT:
        chosen = dict(map(_choice, OmegaConf.load(composer.folder / f"{composer.name}.yaml").defaults)) | chosen
    for other in about.data:
        if other in chosen:
            found |= data_of(about, composer, other, chosen[other], tree)
    return found


def state(places: Mapping[str, str]) -> str:
    """Say in a few words whether data are there; "" where there are no places."""
    missing = [place for place, told in places.items() if told == ABSENT]
    given = [place for place, told in places.items() if told == GIVEN]
    if missing or given:
        said = [f"absent: {', '.join(missing)}"] if missing else []
        return "; ".join([*said, *(f"give {place}=…" for place in given)])
    return MADE if MADE in places.values() else THERE if places else ""


def _choice(entry: object) -> tuple[str, str]:
    """Return group and option of an entry of a defaults list; two empty strings where it chooses no single one."""
    if not isinstance(entry, DictConfig):
        return "", ""
    ((key, option),) = entry.items()
    group = str(key).removeprefix("override ").partition("@")[0].strip().lstrip("/")
    return (group, option) if isinstance(option, str) else ("", "")


def _places(node: DictConfig, key: str, paths: DictConfig, found: dict[str, str]) -> None:
    """Collect the places that a node names, each with whether it is there."""
    for name in node:
        value = node._get_node(name)
        if isinstance(value, DictConfig):
            _places(value, f"{key}{name!s}.", paths, found)
            continue
        raw = getattr(value, "_val", None)
        if raw == "???":
            found[f"{key}{name!s}"] = GIVEN
        elif isinstance(raw, str) and _DATA_ROOT.search(raw):
            place = Path(_DATA_ROOT.sub(lambda m: str(paths[m[1]]), raw)).expanduser()
            found[str(place)] = THERE if place.exists() else ABSENT


def _file(composer: Composer, group: str, name: str) -> Path | None:
    """Return the YAML file of an option, None where it is not a file."""
    for source in composer.loader.get_search_path().get_path():
        place = (source.path or "pkg://").removeprefix("file://")
        path = Path(place) / group / f"{name}.yaml"
        if "://" not in place and path.is_file():
            return path
    return None


def _docstring(target: str) -> str:
    """Return the first sentence of the file that a package exports a public name from, read but not imported."""
    package, _, name = target.rpartition(".")
    spec = importlib.util.find_spec(package) if package.partition(".")[0] in sys.modules else None
    if spec is None or spec.origin is None:
        return target
    stub = Path(spec.origin).with_suffix(".pyi")
    exported = stub.read_text(encoding="utf-8") if stub.is_file() else ""
    found = re.search(rf"^from \.(\S+) import {name} as", exported, re.MULTILINE)
    if found is None:
        return target
    path = stub.parent.joinpath(*found[1].split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or target).partition("\n")[0].rstrip(".")
