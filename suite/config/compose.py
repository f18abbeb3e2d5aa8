"""Configuration: where `conf/` lies, and how a command line becomes one tree.

Built on the parts that Hydra's own compose API is made of (hydra-core is pinned to one release): one loader then serves
all jobs of a sweep, and nothing global is left behind.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from callbacks.errors import UserError, no_folder, quoted
from suite.config.files import Files
from suite.config.trainer import OPTIONS

VERSION_BASE = "1.3"
# a TypeError is Hydra's own, of an option that is no text (optimizer=[1])
_FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)


def choose(name: str, values: Mapping[str, Any], otherwise: Any) -> Any:
    """Resolve `${choose:NAME,{A:a, B:b},OTHERWISE}`: a where NAME is A, …; OTHERWISE for any other name.

    For values that a paper gives per data set: `${choose:${hydra:runtime.choices.data},{cremad:8.0},4.0}`, without a
    blank after a colon, which YAML would read as a mapping of its own.
    """
    return values.get(name, otherwise)


OmegaConf.register_new_resolver("choose", choose, replace=True)


def conf_dir() -> Path:
    """Return the absolute path of the YAML tree: `suite/conf` inside an installed wheel, `<repo>/conf` in a checkout.

    It is found from this file, so `python -m`, the console script, an editable install and a wheel all agree.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise UserError(
        str(package.parent / "conf"),
        "no such folder",
        "the YAML files that belong to this package",
        "install the package again (pip install .), or run from a checkout that has conf/",
    )


class Composer:
    """Composes the trees of one program.

    Groups are searched in the program's folder, then in `<config_dir>/common`.

    Args:
        program: the program's name; `asgml` means `<config_dir>/asgml/config.yaml`, `latentwire/ladder` means
            `<config_dir>/latentwire/ladder.yaml`, and of a package inside of another the last name counts.
        config_dir: the absolute folder of the YAML files; None is `conf_dir()`.
        extra_dirs: the folders to search before the program's own (Hydra's `--config-dir`).

    Raises:
        UserError: one of `extra_dirs` does not exist.
    """

    def __init__(self, program: str, config_dir: Path | None = None, extra_dirs: Sequence[Path] = ()):
        version.setbase(VERSION_BASE)
        setup_globals()
        self.folder, self.name, shared = primary(program, config_dir)
        search_path = create_config_search_path(str(self.folder))
        for folder in extra_dirs:
            if not folder.is_dir():
                raise UserError(
                    f"--config-dir {folder}",
                    no_folder(folder),
                    "a folder of YAML files",
                    f"mkdir -p {quoted(folder)}, or leave --config-dir out",
                )
            search_path.prepend("command-line", f"file://{folder.resolve()}", SearchPathQuery(provider="schema"))
        for folder in shared:
            search_path.prepend("common", f"file://{folder}", SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(config_search_path=search_path)
        self.loader.repository = Files(search_path)

    def with_hydra(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """Return the composed tree with Hydra's own node under `hydra`, in struct mode.

        Raises:
            UserError: everything in the overrides that does not fit, or files that do not compose.
        """
        try:
            cfg = self.loader.load_configuration(self.name, list(overrides), mode, from_shell=False)
            assert isinstance(cfg, DictConfig)
            return cfg
        except _FAILURES as error:
            raise self._explain(self.name, list(overrides), mode, error) from error

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        """Return the program's tree as `hydra.main` would hand it to the task, in struct mode.

        Interpolations of Hydra's own values (the name of the chosen experiment) are replaced by their values; all
        others stay, so that the identity of a run can tell a data root from a choice.

        Raises:
            UserError: as `with_hydra`.
        """
        return without_hydra(self.with_hydra(overrides))

    def options(self, group: str) -> list[str]:
        """Return the names of the YAML files in a config group, e.g. `options("experiment")`."""
        return self.loader.get_group_options(group, ObjectType.CONFIG)

    def groups(self, parent: str = "") -> list[str]:
        """Return all config groups, nested ones as `a/b`, Hydra's own left out."""
        found: list[str] = []
        for name in self.loader.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}" if parent else name
            if group != "hydra":
                found += [group, *self.groups(group)]
        return found

    def _explain(self, config_name: str, overrides: list[str], mode: RunMode, error: Exception) -> UserError:
        """Find what the user typed wrong; Hydra's message is only quoted where no override is to blame."""
        parsed, problems = [], []
        for line in overrides:
            try:
                parsed += OverridesParser.create(config_loader=self.loader).parse_overrides([line])
            except OverrideParseException as bad:
                problems.append(_syntax_error(line, bad))
        choices = [o for o in parsed if self._is_group(o)]
        problems += [p for o in choices for p in self._bad_options(o)]
        if not problems:
            try:
                tree = self.loader.load_configuration(
                    config_name, [o.input_line or "" for o in choices], mode, from_shell=False
                )
            except _FAILURES as still:
                return self._in_the_files(config_name, choices, still)
            keys = dotted_keys(tree)
            for o in parsed:
                if o in choices:
                    continue
                if mode == RunMode.RUN and o.is_sweep_override():
                    problems.append(_sweep_without_multirun(o))
                elif not (o.is_add() or o.is_force_add()) and o.key_or_group not in keys:
                    problems.append(self._unknown_key(o, keys))
        if not problems:
            return self._misfit(config_name, choices, [o for o in parsed if o not in choices], mode, error)
        return problems[0] if len(problems) == 1 else merge_errors(problems, f"{config_name}: command line")

    def _misfit(
        self, config_name: str, choices: list[Override], others: list[Override], mode: RunMode, error: Exception
    ) -> UserError:
        """Find the override with which a tree composes no longer, although each of them is well-formed."""

        def fails(count: int) -> bool:
            return not self._composes(config_name, [*choices, *others[:count]], mode)

        at = bisect_left(range(1, len(others) + 1), True, key=fails)
        if at == len(others):
            return UserError(config_name, _message(error), "a tree that composes", "edit the YAML files")
        blamed = others[at]
        line = blamed.input_line or blamed.key_or_group
        remedy = f"leave {line} out"
        if blamed.is_add():
            remedy = f"type {line.removeprefix('+')}"
        elif isinstance(blamed.value(), dict) and not blamed.is_force_add():
            remedy = f"type '+{line}'"
        return UserError(line, _message(error), "a tree that composes", remedy)

    def _composes(self, config_name: str, overrides: list[Override], mode: RunMode = RunMode.RUN) -> bool:
        try:
            lines = [o.input_line or "" for o in overrides]
            self.loader.load_configuration(config_name, lines, mode, from_shell=False)
        except _FAILURES:
            return False
        return True

    def _is_group(self, override: Override) -> bool:
        return self.loader.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)

    def _bad_options(self, override: Override) -> list[UserError]:
        options = self.options(override.key_or_group)
        value = override.value()
        if override.is_sweep_override():
            values: list[Any] = list(override.sweep_iterator(transformer=str)) if override.is_discrete_sweep() else []
        else:
            values = value if isinstance(value, list) else [value]
        group = override.key_or_group
        return [
            UserError(
                f"{group}={name}",
                f"no option {name!r} in config group {group!r}",
                f"one of: {shorten(options)}",
                _did_you_mean([f"{group}={near}" for near in nearest(str(name), options)], f"leave {group}={name} out"),
            )
            for name in values
            if name is not None and str(name) not in options and not override.is_delete() and "[" not in str(name)
        ]

    def _unknown_key(self, override: Override, keys: Sequence[str]) -> UserError:
        key = override.key_or_group
        own = [k for k in keys if key.startswith("hydra") or not k.startswith("hydra.")]
        parent = key.rpartition(".")[0]
        siblings = [k.rpartition(".")[2] for k in own if parent and k.rpartition(".")[0] == parent]
        add = f"a key that is new on purpose is added with +{override.input_line}"
        nothing = f"nothing comes near: leave {override.input_line} out; `--cfg job` prints the keys there are"
        if parent == "trainer" and key.removeprefix("trainer.") in OPTIONS:
            expected = "a key of 'trainer' that the configuration sets; this one it leaves to Lightning's Trainer"
            remedy = f"type +{override.input_line}"
        elif parent in own and not siblings:
            expected, remedy = f"{parent!r} is empty here", add
        elif siblings:
            expected = f"a key of {parent!r}: {shorten(s for s in siblings if not s.startswith('_'))}"
            remedy = f"{_did_you_mean(nearest_key(key, own), nothing)}; {add}"
        else:
            expected = "a key of the composed tree"
            remedy = _did_you_mean(nearest_key(key, [*own, *self.groups()]), nothing)
        return UserError(override.input_line or key, f"unknown key {key!r}", expected, remedy)

    def _in_the_files(self, config_name: str, choices: list[Override], error: Exception) -> UserError:
        for o in choices:
            if o.value() is None and not o.is_delete() and not self._composes(config_name, [o]):
                group, line = o.key_or_group, o.input_line or ""
                expected = f"one of: {shorten(self.options(group))}"
                return UserError(
                    line, "null, where an option is needed", expected, f"leave {line} out; ~{group} takes a choice back"
                )
        where = " ".join([f"{config_name}.yaml", *(o.input_line or "" for o in choices if not o.is_hydra_override())])
        remedy = "edit the YAML file that the message names, or choose another option of its group"
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            where = f"{mark.name}, line {mark.line + 1}"
            remedy = f"edit {mark.name} at this line: a bracket, a quote or a blank is missing there or just before"
        return UserError(where, _message(error), "YAML files that compose", remedy)


def primary(program: str, config_dir: Path | None = None) -> tuple[Path, str, list[Path]]:
    """Return a program's folder of YAML files, the name of its primary config there, and the shared folders."""
    root = (config_dir or conf_dir()).resolve()
    folder, _, name = program.partition("/")
    return root / folder.rpartition(".")[2], name or "config", [f for f in (root / "common",) if f.is_dir()]


def compose(program: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """Compose one tree of a program (see `Composer`) from command-line overrides.

    Example: `compose("asgml", ["experiment=cremad_mini", "asgml.tau=2"])`.

    Raises:
        UserError: an unknown key, group or option (with the nearest valid names), or wrong syntax.
    """
    return Composer(program, config_dir).compose(overrides)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Take Hydra's own node out of a tree, in place, after replacing the references to it; return the tree."""
    singleton = HydraConfig.instance()
    before = singleton.cfg
    try:
        singleton.set_config(cfg)
        pin_hydra(cfg)
    finally:
        singleton.cfg = before
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def pin_hydra(cfg: DictConfig) -> None:
    """Replace in place every `${hydra:...}` by its value; `HydraConfig` must be set."""

    def visit(node: Any, keys: Iterable[Any]) -> None:
        for key in keys:
            child: Any = node._get_node(key)
            if child is None or child._is_missing():
                continue
            if child._is_interpolation():
                if "${hydra:" in child._value():
                    node[key] = node[key]
            elif isinstance(child, DictConfig | ListConfig) and not child._is_none():
                visit(child, list(child) if isinstance(child, DictConfig) else range(len(child)))

    visit(cfg, [key for key in cfg if key != "hydra"])


def dotted_keys(cfg: Any, prefix: str = "") -> list[str]:
    """Return all keys of a tree, inner nodes included: `["asgml", "asgml.tau", …]`; lists are leaves."""
    keys: list[str] = []
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing() or cfg._is_interpolation():
        return keys
    for name in cfg:
        key = prefix + str(name)
        keys += [key, *dotted_keys(cfg._get_node(name), f"{key}.")]
    return keys


def nearest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """Return the valid names most like `name`, best first; [] where none comes near."""
    return difflib.get_close_matches(name, list(dict.fromkeys(valid)), n=n, cutoff=0.6)


def nearest_key(key: str, valid: Sequence[str], n: int = 3) -> list[str]:
    """Return the valid dotted keys most like `key`: siblings if any, else first the same last part elsewhere."""
    parent, _, last = key.rpartition(".")
    siblings = nearest(last, (k.rpartition(".")[2] for k in valid if k.rpartition(".")[0] == parent), n)
    if siblings:
        return [f"{parent}.{s}" if parent else s for s in siblings]
    same_last = [k for k in valid if k.rpartition(".")[2] == last]
    near_last = [k for k in valid if difflib.SequenceMatcher(None, k.rpartition(".")[2], last).ratio() > 0.75]
    return list(dict.fromkeys([*same_last, *nearest(key, valid, n), *near_last]))[:n]


def merge_errors(problems: Sequence[UserError], where: str, limit: int = 12) -> UserError:
    """Return one error that tells several problems on one screen, identical ones once, `limit` at most in full."""
    unique = list({str(p): p for p in problems}.values())
    if len(unique) == 1:
        return unique[0]
    lines = [
        f"{i}. {p.where}: {p.found}\n     expected {p.expected}; {p.remedy}" for i, p in enumerate(unique[:limit], 1)
    ]
    if len(unique) > limit:
        lines.append(f"… and {len(unique) - limit} more")
    return UserError(
        f"{where}: {len(unique)} problems",
        "\n  " + "\n  ".join(lines),
        "what each line names as expected",
        "what each line ends with; `--cfg job` prints the composed tree",
    )


def shorten(names: Iterable[str], limit: int = 12) -> str:
    """Return the first names as one line, with the number of those left out."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f", … ({len(listed) - limit} more)" if len(listed) > limit else "")


def _did_you_mean(candidates: Sequence[str], otherwise: str) -> str:
    return "did you mean " + " or ".join(candidates) + "?" if candidates else otherwise


def _syntax_error(line: str, error: OverrideParseException) -> UserError:
    remedy = f"quote special characters for shell and Hydra: 'key=\"value\"'; lists as 'key=[a,b]' (got: {line})"
    key, equals, value = line.partition("=")
    parent, _, last = key.rpartition(".")
    if equals and parent and ":" in last:  # which Hydra reads in a mapping alone
        escaped = last.replace(":", r"\:")
        remedy = f"type '+{parent.lstrip('+')}={{{escaped}:{value}}}'"
    return UserError(line, _message(error), "key=value, group=option, +new=value or ~key", remedy)


def _sweep_without_multirun(override: Override) -> UserError:
    key, _, value = (override.input_line or "").partition("=")
    return UserError(
        override.input_line or "",
        "several values, but this is a single run",
        "one value",
        f"add -m to run them all, or make it a list: '{key}=[{value}]'",
    )


def _message(error: BaseException) -> str:
    text = [str(error).strip()]
    if error.__cause__ is not None and str(error.__cause__).strip() not in text[0]:
        text.append(str(error.__cause__).strip())
    lines = [line.strip() for line in "\n".join(text).splitlines() if line.strip()]
    return " · ".join(lines[:8]) or type(error).__name__
