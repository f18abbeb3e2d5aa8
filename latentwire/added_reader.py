"""A reader that comes later: the tree of a run that trains adapter and injector of one more model for a finished wire.

Encoder and codec are those of the finished run and fixed (`wire.from_run`); corpus, objectives, loader, optimiser and
length of the training are its own as well, so that nothing but the reader differs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks.errors import UserError
from latentwire.wire_parts import FREEZE, INIT
from suite.config.compose import Composer
from suite.runs.finished import apply_override, following, parsed, read_config, require_finished, stored_checkpoint

NAME = "family"  # of the experiment
FIXED = ("corpus", "encoder", "codec", "encoder_lm", "lms", "wire", "name")  # what the sender has settled
CHOSEN = ("adapter", "injector", "curriculum")  # groups of which another option may be taken
JUDGED_BY = "baseline=[text,no_context]"


def label_of(cfg: DictConfig) -> str:
    """Return how tables call a run's wire: its label, else the class of its encoder."""
    return str(cfg.get("label") or str(cfg.encoder._target_).rpartition(".")[2])


def reader_option(reader: str, composer: Composer) -> str:
    """Return the override that chooses a reader. Raises UserError for no option of the group `readers`."""
    options = composer.options("readers")
    if reader not in options:
        remedy = "add --reader pocket_qwen, or --reader hf hf.source=FOLDER for any other model"
        raise UserError(f"--reader {reader}", "no such reader", " | ".join(options), remedy)
    return f"readers={reader}"


def tree(run_dir: Path, reader: str, words: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Return the tree of the run that adds a reader to a finished run.

    Args:
        run_dir: the finished run's directory.
        reader: an option of the group `readers` with one model.
        words: overrides: `adapter=`, `injector=` or `curriculum=NAME`, `hf.*` of `readers=hf`, and plain keys.
        config_dirs: further folders with options of these groups.

    Raises:
        UserError: no finished wire, no such reader or several, one that the run reads with already, or a key that the
            sender has settled.
    """
    place = run_dir.expanduser().resolve()
    before = read_config(place, "latentwire", "wire")
    require_finished(place)
    stored_checkpoint(place, "best")
    overrides = {line: parsed(line, "trainer.max_epochs=32") for line in words}
    keys = {line: str(o.key_or_group) for line, o in overrides.items()}
    for line, key in keys.items():
        if key.partition(".")[0] in FIXED:
            expected = f"{', '.join(f'{group}=NAME' for group in CHOSEN)}, or a key of the training"
            remedy = f"train another sender with it: python -m latentwire.run … {line}"
            raise UserError(line, f"{key} belongs to the sender {run_dir}", expected, remedy)
    composed = [line for line, key in keys.items() if key in CHOSEN or key.partition(".")[0] == "hf"]
    composer = Composer("latentwire", extra_dirs=config_dirs)
    chosen = composer.compose([reader_option(reader, composer), "curriculum=single", JUDGED_BY, *composed])
    if chosen.hf is not None and OmegaConf.is_missing(chosen.hf, "source"):
        raise UserError(f"--reader {reader}", "no hf.source", "the model's folder or hub id", "add hf.source=FOLDER")
    cfg = copy.deepcopy(before)
    with open_dict(cfg):
        cfg.name, cfg.label = NAME, f"{label_of(before)} + {reader}"
        cfg.resume = "auto"
        cfg.paths.runs = str(place.parents[len(str(before.name).split("/"))])
        cfg.hf = None if chosen.hf is None else OmegaConf.to_container(chosen.hf, resolve=True)
        for key in ("lms", "baselines", *(k for k in ("adapter", "injector") if k in keys.values())):
            cfg[key] = following(chosen[key], cfg, key)
        cfg.stages = OmegaConf.to_container(chosen.stages, resolve=True)
        if "curriculum" in keys.values():  # which brings the objectives that it weighs
            cfg.objectives = OmegaConf.merge(following(chosen.objectives, cfg, "objectives"), cfg.objectives)
        if before.encoder_lm is None and _stands_on_a_reader(before):
            cfg.encoder_lm = next(iter(before.lms.values()))
        cfg.wire.from_run, cfg.wire.start_from, cfg.wire.slots = str(place), None, None
        if before.wire.private:
            cfg.wire.private = {**before.wire.private, next(iter(cfg.lms)): 0}
        for key in (INIT, FREEZE):  # of the sender, whose encoder and codec are fixed
            cfg.pop(key, None)
        cfg.adaptation, cfg.acceptance, cfg.placement.devices = {}, {}, {}
        cfg.group_lr = {key: rate for key, rate in before.group_lr.items() if ":" not in str(key)}
    _refuse_readers(before, cfg, reader, run_dir)
    for line, override in overrides.items():
        if line not in composed:
            apply_override(cfg, override)
    return cfg


def _stands_on_a_reader(cfg: DictConfig) -> bool:
    from suite.config.signature import locate, parameters

    return "lm" in parameters(locate(cfg.encoder._target_)).names


def _refuse_readers(before: DictConfig, cfg: DictConfig, reader: str, run_dir: Path) -> None:
    if len(cfg.lms) != 1:
        found, remedy = " and ".join(map(str, cfg.lms)), f"add --reader {next(iter(cfg.lms))}"
        raise UserError(f"--reader {reader}", found, "one model that is added", remedy)
    added = next(iter(cfg.lms.values()))
    if any(added == node for node in before.lms.values()):
        others = [o for o in Composer("latentwire").options("readers") if o not in before.lms and o != reader]
        expected = "a model that the run has not been trained for"
        raise UserError(f"--reader {reader}", f"a reader of {run_dir}", expected, f"add --reader {others[0]}")
