"""Get a network out: `python -m asgml.export RUN -o DIR`.

    DIR/export.json                what the network is built from, SHA-256 of
                                   every file, and the parity that was found
    DIR/weights.safetensors        weights and buffers
    DIR/preprocessing.safetensors  modalities, classes, standardisation
    DIR/config.yaml                the run's configuration, for the record
    DIR/network.pt2                with --format pt2 (default): the network as
                                   a torch.export program, any number of rows;
                                   torch alone runs it
    DIR/network.onnx               with --format onnx, which needs onnx

`asgml.export.load(DIR).predict({"audio": array, …})` and `python -m asgml.predict DIR --data FILE…` need nothing else:
no run, no training data. What was written is read back and compared with the run's network on drawn inputs, rows
without a modality among them; where they differ, nothing is left and the command fails.

    torch.export.load("DIR/network.pt2").module()(x, present, lengths)

takes mappings by modality: inputs (n, …) as preprocessing leaves them, whether each row has it (n,) bool, and of padded
ones the number of steps (n,) int64. It returns `prob` (n, C) and `prob_<m>`, or `value` and `value_<m>`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import sealed_text
from suite.runs.command import command, command_parser
from suite.runs.exported import (
    MANIFEST,
    WEIGHTS,
    new_folder,
    read_manifest,
    refuse_difference,
    require_new,
    write_manifest,
)

if TYPE_CHECKING:
    from asgml.exported import Exported
    from asgml.restore import Restored

Format = Literal["pt2", "onnx", "none"]
FORMAT, VERSION = "asgml network", 1
AGAIN = "write it again: python -m asgml.export RUN -o DIR"


def export(run: Restored, folder: Path, form: Format = "pt2") -> dict[str, float]:
    """Write a finished network, read it back, and return the largest difference of each form from the run's network.

    Args:
        run: the run, as `asgml.restore.restore` returned it.
        folder: the folder, which may not exist yet, or is empty.
        form: the program that is written beside the weights.

    Raises:
        UserError: a folder that is not empty, a network that cannot be traced, or one that comes back as another.
    """
    from asgml import programs
    from asgml.exported import as_evaluated, difference

    programs.require(form)
    with new_folder(folder):
        _write(run, folder, form)
        loaded = load(folder, trusted=_packages(run), checked=False)
        found = {WEIGHTS: difference(run, as_evaluated(loaded))}
        remedy = "predict with the run itself: python -m asgml.predict RUN"
        refuse_difference(folder / WEIGHTS, found[WEIGHTS], 0.0, remedy)
        if form != "none":
            path = folder / programs.FILES[form]
            found[path.name] = difference(run, programs.read(path, form))
            refuse_difference(path, found[path.name], programs.TOLERANCE, "leave the program out: --format none")
    _write_manifest(run, folder, found)
    return found


def load(folder: Path, trusted: Collection[str] = (), checked: bool = True) -> Exported:
    """Load an exported network; every byte of its files is verified.

    Args:
        folder: what `export` has written.
        trusted: packages besides this suite's whose code its settings may name.
        checked: whether an export is refused whose parity has not been found, because writing it was interrupted.

    Raises:
        UserError: no export, a damaged or unfinished one, one of another version, or settings that name code which is
            not trusted.
    """
    from asgml.data.preprocessing import FILE, Preprocessing
    from asgml.exported import Exported
    from suite.config.trusted import refuse_foreign
    from suite.tensors import read_tensors

    path = Path(folder) / MANIFEST
    manifest = read_manifest(path.parent, FORMAT, VERSION, AGAIN, checked)
    refuse_foreign(manifest["settings"], path, "asgml", ("data", "methods", "model"), trusted)
    weights, _ = read_tensors(path.with_name(WEIGHTS), "the weights of an exported network", AGAIN)
    return Exported.of(path.parent, manifest, Preprocessing.read(path.with_name(FILE), AGAIN), weights)


def _write(run: Restored, folder: Path, form: Format) -> None:
    from omegaconf import OmegaConf

    from asgml import programs
    from asgml.data.preprocessing import FILE
    from suite.tensors import write_tensors

    state = run.module.state_dict()  # a head that modalities share has a name under each of them
    write_tensors(folder / WEIGHTS, {name: tensor.clone() for name, tensor in state.items()})
    run.data.write(folder / FILE)
    write_bytes(folder / "config.yaml", sealed_text(OmegaConf.to_yaml(run.cfg, resolve=True)))
    programs.write(run, folder, form)
    _write_manifest(run, folder, None)


def _write_manifest(run: Restored, folder: Path, parity: Mapping[str, float] | None) -> None:
    content = {
        "run": run.result.get("hash"),
        "checkpoint": run.which,
        "settings": settings(run),
        "parity": parity,
    }
    write_manifest(folder, FORMAT, VERSION, content)


def settings(run: Restored) -> dict[str, Any]:
    """Return what network and data of a run are built from, in plain values."""
    from omegaconf import OmegaConf

    from asgml.restore import without_initial_weights

    cfg = run.cfg
    return {
        "model": OmegaConf.to_container(without_initial_weights(cfg.model), resolve=True),
        "methods": OmegaConf.to_container(cfg.methods, resolve=True),
        "data": OmegaConf.to_container(cfg.data, resolve=True),
        "loss": str(cfg.loss),
        "seed": int(cfg.seed),
        "precision": cfg.trainer.precision,
        "max_epochs": cfg.trainer.get("max_epochs"),
        "eval_batch_size": int(cfg.loader.eval_batch_size),
    }


def _packages(run: Restored) -> set[str]:
    """Return the packages whose code this process has run already to restore a run."""
    from suite.config.trusted import targets

    return {target.partition(".")[0] for target in targets(settings(run))}


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.export", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="a new folder")
    p.add_argument("--checkpoint", choices=["best", "last"], default="best", help="weights (default: best)")
    p.add_argument("--format", choices=["pt2", "onnx", "none"], default="pt2", help="program beside the weights")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    require_new(args.out)

    from asgml.restore import restore

    parity = export(restore(args.run, args.checkpoint), args.out, args.format)
    for path in sorted(args.out.iterdir()):
        told = f", differs from the run's network by {parity[path.name]:.2g} at most" if path.name in parity else ""
        print(f"{path}  {path.stat().st_size} bytes{told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
