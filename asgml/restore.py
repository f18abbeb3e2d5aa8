"""From a finished run to its network in evaluation mode, without its training data, and to predictions by it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from asgml.data.dataset import MultimodalDataset
from asgml.data.preprocessing import FILE, Preprocessing
from asgml.data.seen import seen_in
from asgml.data.spec import DataSpec, Source, Table
from asgml.methods.base import Method
from asgml.model.net import MultimodalNet
from asgml.train.inference import Finished
from asgml.train.predictions import Predictions
from asgml.train.task import task_of
from callbacks.errors import UserError
from callbacks.run.inputs import refuse_other_inputs
from callbacks.run.stored import LAST, read_checkpoint
from callbacks.step.norm import running_layers
from suite.config.instantiate import build_node
from suite.loader import EpochBatches, ResumableLoader
from suite.runs.finished import read_config, require_finished, stored_checkpoint
from suite.runs.identity import fingerprints
from suite.runs.inputs import default_of, given_files
from suite.runs.provenance import CONFIG
from suite.runs.written import refuse_other_file
from suite.shell import inference_trainer

AGAIN = "repeat the run's command with resume=never"


@dataclass
class Restored:
    """Holds a finished run, ready to predict.

    Attributes:
        dir: its directory.
        cfg: its configuration.
        result: its result.
        data: what it has fixed of its data.
        module: network and methods with its weights, in evaluation mode.
        which: the weights: `best` or `last`.
    """

    dir: Path
    cfg: DictConfig
    result: dict[str, Any]
    data: Preprocessing
    module: Finished
    which: str


def config_of(run_dir: Path) -> DictConfig:
    """Read the configuration of a run. Raises UserError where there is none of asgml."""
    return read_config(run_dir, "asgml", "multimodal network")


def restore(run_dir: Path, which: str = "best") -> Restored:
    """Rebuild the network of a finished run.

    Args:
        run_dir: its directory.
        which: `best`, the weights of the best validation, or `last`.

    Raises:
        UserError: no such run or checkpoint, a run that is not finished, damage to one of its files, or the last
            weights of a run whose average has other running statistics than they.
    """
    cfg = config_of(run_dir)
    result = require_finished(run_dir, "repeat its command: it goes on")
    path = stored_checkpoint(run_dir, which)
    data = preprocessing_of(run_dir, cfg, result)
    module = build_finished(cfg, data.spec)
    saved = read_checkpoint(path, AGAIN, result.get("hash"))
    # What methods know beside their weights is that of the end of training, also where the run evaluates its best.
    end = saved if which == "last" else read_checkpoint(stored_checkpoint(run_dir, LAST.partition(".")[0]), AGAIN)
    for name, state in end["callbacks"]["StepPipeline"]["stages"]["modulation"]["methods"].items():
        module.methods[name].load_state(state)
    _require_fit(module, saved["state_dict"], run_dir)
    module.load_state_dict(saved["state_dict"])
    if which == "last":
        _require_own_statistics(cfg, module, path)
    return Restored(run_dir, cfg, result, data, module.eval(), which)


def _require_fit(module: Finished, weights: Mapping[str, Tensor], run_dir: Path) -> None:
    """Refuse weights that are not those of the network that the configuration describes."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}
    name = next((n for n in sorted({*own, *theirs}) if own.get(n) != theirs.get(n)), None)
    if name is not None:
        raise UserError(
            str(run_dir / CONFIG),
            f"a network with {name} {own.get(name, 'absent')}",
            f"that of the run's weights, {theirs.get(name, 'absent')}: the configuration as the run wrote it",
            AGAIN,
        )


def _require_own_statistics(cfg: DictConfig, module: Finished, path: Path) -> None:
    """Refuse last weights that are an average without the statistics that its own activations had after training."""
    node = cfg.callbacks.get("averaging")
    if node is None or not running_layers(module):
        return
    if node.get("statistics", default_of(node, "statistics")) == "recomputed":
        found = "an average whose running statistics were recomputed after training, and are not in it"
        raise UserError(str(path), found, "weights with their own statistics", "add --checkpoint best")


def build_finished(cfg: DictConfig, spec: DataSpec) -> Finished:
    """Build network and methods of a configuration with initial weights.

    Args:
        cfg: the configuration of the run.
        spec: modalities, shapes and classes.
    """
    net: MultimodalNet = build_node(without_initial_weights(cfg.model))(spec=spec, seed=int(cfg.seed))
    if cfg.trainer.precision in ("64", "64-true"):
        net = net.double()
    methods: dict[str, Method] = {str(name): build_node(node) for name, node in cfg.methods.items()}
    epochs = int(cfg.trainer.get("max_epochs") or -1)
    return Finished(net, methods, task_of(spec, cfg.loss), int(cfg.seed), epochs)


def without_initial_weights(model: DictConfig) -> DictConfig:
    """Return a `model` node whose encoders read no file of weights, which finished ones replace in any case."""
    model = copy.deepcopy(model)
    for node in (model.get("encoder"), *(model.get("encoders") or {}).values()):
        if node is not None and node.get("_target_") == "asgml.model.ResNet18":
            node.weights = None
    return model


def preprocessing_of(run_dir: Path, cfg: DictConfig, result: dict[str, Any]) -> Preprocessing:
    """Return what a run has fixed of its data: from its file, else (of an earlier release) from its training data.

    Raises:
        UserError: a damaged file, or training data that are not there or not those of the run.
    """
    if (run_dir / FILE).is_file():
        refuse_other_file(run_dir / FILE, result, AGAIN)
        return Preprocessing.read(run_dir / FILE, AGAIN)
    where = f"{run_dir} has no {FILE}, and its training data"
    refuse_other_inputs(result.get("inputs"), fingerprints(cfg, given_files(cfg)), where, AGAIN)
    source: Source = build_node(cfg.data)
    source.prepare()
    tables = source.tables()
    return Preprocessing.of(source.spec(), tables["train"].transforms, seen_in(tables))


def predictions(run: Restored, table: Table) -> Predictions:
    """Return the predictions of all samples of a table, in its order, on the device of the run's configuration.

    Args:
        run: the run; its configuration says device, precision and the number of rows in a batch.
        table: samples with the run's preprocessing.
    """
    dataset = MultimodalDataset(table, int(run.cfg.seed), train=False)
    batches = EpochBatches(len(dataset), int(run.cfg.loader.eval_batch_size), int(run.cfg.seed), train=False)
    inference_trainer(run.cfg).test(run.module, dataloaders=ResumableLoader(dataset, batches), verbose=False)
    return Predictions.gather(run.module.collected)
