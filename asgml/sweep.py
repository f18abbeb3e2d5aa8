"""Sweeps over methods on any data: the row `unimodal` once per modality, and only rows that apply to the data.

`conf/asgml/sweep/methods.yaml` lists methods for all data sets. Which modalities there are is asked of the data source
before anything is decoded, and the list becomes that of the data: `unimodal` is `unimodal_<modality>` for each of them,
in its place (before the methods that need these runs as teachers), and a method that these data have too few modalities
for is left out and named in one line. A list that is typed (`method=a,b`) stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from callbacks.errors import UserError
from suite.config.check import check
from suite.config.compose import Composer
from suite.config.instantiate import build_node
from suite.config.signature import locate
from suite.runs.display import console
from suite.runs.foreseen import PLAN
from suite.runs.planning import FAILED_ONLY, arguments_of

UNIMODAL = "unimodal"
DATA = ("experiment", "data")


def for_the_data(argv: Sequence[str], schema: type) -> list[str]:
    """Return a command line in which the list of methods of its sweep is that of its data.

    Args:
        argv: the command line; one without a sweep, or with `method=…`, comes back as it is.
        schema: the dataclass of the plain nodes of the tree.

    Raises:
        UserError: what does not compose, data that cannot be asked for their modalities, or several data sets with
            other modalities.
    """
    arguments = list(argv)
    args = arguments_of([a for a in arguments if a not in (FAILED_ONLY, PLAN)])
    sweeps = args.multirun or any(o.replace(" ", "").lower() == "hydra.mode=multirun" for o in args.overrides)
    if not sweeps or args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return arguments
    composer = Composer("asgml", None, [] if args.config_dir is None else [Path(args.config_dir)])
    listed = composer.with_hydra(args.overrides, RunMode.MULTIRUN).hydra.sweeper.params or {}
    names = [name.strip() for name in str(listed.get("method", "")).split(",")]
    typed = OverridesParser.create(config_loader=composer.loader).parse_overrides(args.overrides)
    if UNIMODAL not in names or any(o.key_or_group == "method" for o in typed):
        return arguments
    line, modalities = _data(composer, typed, schema)
    rows, gone = [], dict[str, str]()
    for name in names:
        if name == UNIMODAL:
            rows += [_unimodal(composer, m) for m in modalities]
        elif reason := not_applicable(composer.compose([*line, f"method={name}"]).methods, modalities):
            gone[name] = reason
        else:
            rows.append(name)
    if gone:
        told = "; ".join(f"{name} ({reason})" for name, reason in gone.items())
        message = f"not applicable to these data, left out (modalities: {', '.join(modalities)}): {told}"
        console().print(escape(message), style="yellow", highlight=False, soft_wrap=True)
    place = arguments.index(args.overrides[0]) if args.overrides else len(arguments)
    return [*arguments[:place], f"method={','.join(rows)}", *arguments[place:]]


def not_applicable(methods: Mapping[str, Any], modalities: Sequence[str]) -> str:
    """Return why methods cannot run on data with these modalities, "" if they can; `methods` is the tree's node."""
    for name, node in methods.items():
        least = locate(node["_target_"]).min_modalities
        if len(modalities) < least:
            return f"needs {'two' if least == 2 else least} modalities"
        named = node.get("modality")
        if named is not None and named not in modalities:
            return f"is set for {named}: run it with methods.{name}.modality={modalities[0]}"
    return ""


def _data(composer: Composer, typed: Sequence[Override], schema: type) -> tuple[list[str], list[str]]:
    """Return overrides that compose the (first) data set of a command line, and its modalities."""
    from asgml.data.spec import modality_names  # imports torch, which a command line without a sweep waits for later

    about_data = [o for o in typed if not o.is_sweep_override() or o.key_or_group.partition(".")[0] in DATA]
    lines = BasicSweeper.split_arguments([o for o in about_data if not o.is_hydra_override()], None)[0]
    found: dict[str, list[str]] = {}
    for line in lines:
        cfg = composer.compose(line)
        check(cfg, schema)
        found.setdefault(" ".join(line), modality_names(build_node(cfg.data)))
    (first, modalities), *others = found.items()
    for other, names in others:
        if names != modalities:
            raise UserError(
                "sweep over methods",
                f"{', '.join(modalities)} in one data set ({first}), {', '.join(names)} in another ({other})",
                "data with the same modalities, which decide the rows",
                "start one sweep per data set",
            )
    return lines[0], modalities


def _unimodal(composer: Composer, modality: str) -> str:
    """Return the method option that trains one modality alone; it is made where no YAML file has it."""
    name = f"{UNIMODAL}_{modality}"
    if name not in composer.options("method"):
        node = {"defaults": [UNIMODAL, "_self_"], "methods": {UNIMODAL: {"modality": modality}}}
        ConfigStore.instance().store(name=name, node=DictConfig(node), group="method", package="_global_")
    return name
