"""The catalogue: per program its primary configurations and config groups, with all their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from suite.config.reference.docstrings import phrase
from suite.config.reference.files import SHARED, ConfigFile, Program, Tree
from suite.config.reference.keys import NODE, UNSET, Owner, Row, has_target, leaves_of, schema_of, shown, walk
from suite.config.signature import locate

GLOBAL = "_global_"
ANY_NAME = "<name>"


@dataclass
class Option:
    """Describes one choice of a group.

    Attributes:
        name: to choose it by.
        what: what it is.
        sets: what it sets elsewhere, as on a command line.
    """

    name: str
    what: str
    sets: list[str] = field(default_factory=list)


@dataclass
class Group:
    """Holds the options of a config group, and the keys that they bring."""

    name: str
    options: list[Option]
    rows: list[Row]


@dataclass
class Primary:
    """Describes a program's tree as one command composes it.

    Attributes:
        module: the module to run, and the name of a study where it is one.
        what: what the file says of itself.
        basis: names of the primary configurations that it starts from.
        choices: default option of each group, and what its place in the tree is for.
        rows: its own keys.
    """

    module: str
    what: str
    basis: list[str]
    choices: dict[str, tuple[Any, str]]
    rows: list[Row]


@dataclass
class Chapter:
    """Holds what there is to say of a program, or of what all programs share."""

    name: str
    primaries: list[Primary]
    groups: list[Group]

    @property
    def rows(self) -> Iterator[Row]:
        """Yield all its keys."""
        yield from _rows(self.primaries, self.groups)


def catalogue(tree: Tree) -> list[Chapter]:
    """Read everything: the programs by name, then what they share."""
    chapters = [_Reader(program, tree).chapter() for program in tree.programs]
    groups = [_group(name, files, {name}, SHARED) for name, files in tree.shared.items()]
    return [*chapters, Chapter(SHARED, [], groups)]


class _Reader:
    def __init__(self, program: Program, tree: Tree):
        self.program, self.tree = program, tree
        self.schemas = {name: schema_of(program.command(name)) for name in program.primaries}
        self.seats: dict[str, set[str]] = {}  # where the files of a group go
        for file in program.primaries.values():
            for group, package, _ in file.includes:
                self.seats.setdefault(group, set()).add(package)
        for files in program.groups.values():
            for file in files.values():
                for group, package, _ in file.includes:
                    for seat in _seats(file, self.seats.get(file.group, {file.group})):
                        self.seats.setdefault(group, set()).add(f"{seat}.{package}")

    def chapter(self) -> Chapter:
        name = self.program.name
        primaries = []
        for primary, file in self.program.primaries.items():
            rows = list(walk(file, file.data, "", self.schemas[primary], f"conf/{name}/{primary}.yaml"))
            rows += self.unwritten(primary, {row.key for row in rows})
            said = Owner(self.schemas[primary]).said
            choices = {
                group: (option, said.get(self.root(group, seat)) or file.notes.get(f"defaults.{group}", (0, ""))[1])
                for group, seat, option in file.includes
            }
            basis = [self.program.command(p) for p in self.program.basis(file)]
            primaries.append(Primary(self.program.command(primary), file.head, basis, choices, rows))
        here = {g: f for g, f in self.program.groups.items() if not all(_is_global(o) for o in f.values())}
        groups = [_group(g, files, self.seats.get(g, {g}), name) for g, files in here.items()]
        known = list(_rows(primaries, groups))
        required = {group for p in primaries for group, (option, _) in p.choices.items() if option}
        known += [row for g, files in self.tree.shared.items() for row in _group(g, files, {g}, SHARED).rows]
        for group in groups:
            self.at_root(group, self.program.groups[group.name], known, group.name in required)
        for g, files in self.program.groups.items():
            if g not in here:
                groups.append(Group(g, [_option(f, files) for f in files.values()], []))
                self.at_root(groups[-1], files, known, g in required)
        return Chapter(name, primaries, sorted(groups, key=lambda g: g.name))

    def root(self, group: str, seat: str) -> str:
        """Return the node that a group fills: `objectives` where its options are `objectives.<option>`."""
        files = {**self.tree.shared, **self.program.groups}.get(group, {}).values()
        nodes = {(f.package or seat).removesuffix(f".{f.option}") for f in files if not _is_global(f)}
        return nodes.pop() if len(nodes) == 1 else seat

    def unwritten(self, primary: str, written: set[str]) -> list[Row]:
        """Return the keys that only the schema has: to be added with `+`, or set by every experiment."""
        file, schema = self.program.primaries[primary], self.schemas[primary]
        for parent in self.program.basis(file):
            written = {*written, *(row.key for row in walk(file, leaves_of(self.schemas[parent]), "", schema, ""))}
        found = []
        for row in walk(file, leaves_of(schema), "", schema, ""):
            if row.key not in written:
                unset = UNSET in (value for _, value in row.values)
                found.append(replace(row, values=[]) if unset or row.type == NODE else replace(row, key=f"+{row.key}"))
        return found

    def at_root(self, group: Group, files: dict[str, ConfigFile], known: list[Row], required: bool) -> None:
        """Sort out what files set at the root: keys that stand elsewhere already, and keys of their own.

        Where one option must be chosen, what it sets is the default of keys that have none.
        """
        rows: list[Row] = []
        schema, unset = self.schemas["config"], {row.key for row in known if not row.values}
        for option, file in zip(group.options, files.values(), strict=True):
            if not _is_global(file):
                continue
            option.sets = [*(f"as {parent}" for parent in file.parents), *file.choices]
            fresh: dict[str, Any] = {}
            for path, value in _leaves(file.data):
                row = next((row for row in known if covers(row, path)), None)
                if has_target(value) or row is None:
                    _put(fresh, path, value)
                elif required and row.key in unset:
                    row.values.append((file.option, value))
                else:
                    option.sets.append(f"{path}={shown(value)}")
            rows += walk(file, fresh, "", schema, _origin(self.program.name, file))
        names = {row.key for row in known}
        group.rows += _merged([row for row in rows if row.key not in names])


def _rows(primaries: list[Primary], groups: list[Group]) -> Iterator[Row]:
    for primary in primaries:
        yield from primary.rows
    for group in groups:
        yield from group.rows


def _group(name: str, files: dict[str, ConfigFile], seats: set[str], folder: str) -> Group:
    rows: list[Row] = []
    for file in files.values():
        if not _is_global(file):
            data = _with_parents(file, files)
            for seat in _seats(file, seats):
                rows += walk(file, data, seat, None, _origin(folder, file))
    return Group(name, [_option(f, files) for f in files.values()], _merged(rows))


def _option(file: ConfigFile, files: dict[str, ConfigFile]) -> Option:
    path = _with_parents(file, files).get("_target_")
    if file.head or _is_global(file):
        return Option(file.option, file.head)
    if isinstance(path, str):
        return Option(file.option, phrase(locate(path)) or f"`{path}`")
    return Option(file.option, ", ".join([*(f"`{option}`" for _, _, option in file.includes), *map(str, file.data)]))


def _is_global(file: ConfigFile) -> bool:
    return file.package == GLOBAL


def _seats(file: ConfigFile, seats: set[str]) -> list[str]:
    if file.package is not None:
        return [file.package]
    return sorted(seats)


def _origin(folder: str, file: ConfigFile) -> str:
    return f"conf/{folder}/{file.group}/{file.path.name}"


def _with_parents(file: ConfigFile, files: dict[str, ConfigFile]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for parent in file.parents:
        data = _overlaid(data, _with_parents(files[parent], files)) if parent in files else data
    return _overlaid(data, file.data)


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _overlaid(out[key], value) if both else value
    return out


def _merged(rows: list[Row]) -> list[Row]:
    """Put together rows that say the same: one key of several options, one parameter of several nodes."""
    nodes: dict[tuple[str, int, str], str] = {}
    for row in rows:
        if row.owner and row.type != NODE:
            node = row.key.rpartition(".")[0]
            nodes[_place(row)] = common(nodes.get(_place(row), node), node)
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        node, _, last = row.key.rpartition(".")
        key = row.key if row.type == NODE else ".".join(filter(None, [nodes.get(_place(row), node), last]))
        same = (row.key.count(".") if row.type == NODE else key, row.type, row.meaning)
        first = found.setdefault(same, replace(row, key=key, values=[]))
        first.key = common(first.key, key)
        first.values += [pair for pair in row.values if pair not in first.values]
    return _elsewhere(list(found.values()))


def _place(row: Row) -> tuple[str, int, str]:
    return row.owner, row.key.count("."), row.key.partition(".")[0]


def _elsewhere(rows: list[Row]) -> list[Row]:
    """Put together what one target takes at several places of the tree."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda r: ANY_NAME not in r.key):
        alike = (row.owner, row.key.rpartition(".")[2], row.type, row.meaning)
        first = found.setdefault(alike if row.owner and row.type != NODE else (id(row),), row)
        if first is not row:
            first.also.append(row.key)
    return [row for row in rows if any(row is kept for kept in found.values())]


def common(a: str, b: str) -> str:
    """Return two keys as one, with `<name>` where they differ."""
    return ".".join(x if x == y else ANY_NAME for x, y in zip(a.split("."), b.split("."), strict=True))


def covers(row: Row, path: str) -> bool:
    """Tell whether a row is about a dotted key."""
    asked = path.split(".")
    for own in (key.split(".") for key in (row.key, *row.also)):
        long_enough = len(asked) >= len(own) if row.open else len(asked) == len(own)
        if long_enough and all(mine in (ANY_NAME, other) for mine, other in zip(own, asked)):
            return True
    return False


def _leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if name == "hydra" and not prefix:
            continue
        if isinstance(value, dict) and value and "_target_" not in value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
