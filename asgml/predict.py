"""Predict new files with a finished run: `python -m asgml.predict RUN --data FILE… -o predictions.csv`.

What a file is, the run's own data class says: an .npz of features, a CSV table, a folder in the layout of CREMA-D.
Labels and splits are not needed, and not read; modalities, classes and statistics are the run's. Words after the run
are further keys of its data: data.corrupt=missing predicts clips that lack sound or frames from what they have. The CSV
has one row per sample:

    file, id                      where it is from: the file and the row or clip in it
    prediction, prob/<class>      the fused prediction and the probabilities
    prediction/<m>, prob/<m>/<class>
                                  those of modality m alone, by its unimodal
                                  head; empty where the sample lacks m

A regression has `value` and `value/<m>`.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError, quoted
from callbacks.files.atomic import write_text
from callbacks.files.folders import make_folder
from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from asgml.data.spec import DataSpec, Table
    from asgml.train.predictions import Predictions


def predict(
    run_dir: Path,
    files: Sequence[str],
    overrides: Sequence[str] = (),
    which: str = "best",
    accelerator: str | None = None,
    trusted: Collection[str] = (),
) -> str:
    """Return the predictions of files as CSV.

    Args:
        run_dir: the directory of a finished run, or what `asgml.export` has made of one.
        files: what `data.path` of the run's data takes, one after the other.
        overrides: further keys of its data, `data.corrupt=missing`.
        which: the weights: `best` or `last`.
        accelerator: where to compute; None is the run's own setting.
        trusted: packages besides this suite's whose code an exported network may name.

    Raises:
        UserError: no finished run, or files that it cannot read.
    """
    from asgml.data.new_samples import new_samples
    from asgml.evaluate import data_of
    from asgml.export import load
    from asgml.restore import predictions, restore
    from suite.config.instantiate import build_node
    from suite.runs.exported import is_export

    run = load(run_dir, trusted) if is_export(run_dir) else restore(run_dir, which)
    if accelerator is not None:
        run.cfg.trainer.accelerator = accelerator
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header(run.data.spec, run.module.active))
    for file in files:
        cfg = data_of(run_dir, run.cfg, [f"data.path={_quoted(file)}", *overrides])
        table, told = new_samples(build_node(cfg.data), run.data, labelled=False)
        for line in told:
            print(f"{file}: {line}", file=sys.stderr)
        writer.writerows(rows(file, table, predictions(run, table), run.data.spec))
    return out.getvalue()


def header(spec: DataSpec, modalities: Sequence[str]) -> list[str]:
    """Return the columns.

    Args:
        spec: the run's data.
        modalities: the modalities that take part in the run.
    """
    if spec.task == "regression":
        return ["file", "id", "value", *(f"value/{m}" for m in modalities)]
    fused = ["prediction", *(f"prob/{c}" for c in spec.classes)]
    single = [f for m in modalities for f in (f"prediction/{m}", *(f"prob/{m}/{c}" for c in spec.classes))]
    return ["file", "id", *fused, *single]


def rows(file: str, table: Table, found: Predictions, spec: DataSpec) -> list[list[str]]:
    """Return one row per sample, numbers as float32 prints them.

    Args:
        file: what the samples are from.
        table: the samples.
        found: their predictions.
        spec: the run's data.
    """
    out = []
    for i, name in enumerate(table.ids):
        row = [file, name]
        for prob in (found.prob[i], *(p[i] for p in found.unimodal.values())):
            gone = bool(prob[0] != prob[0])  # NaN: the sample lacks the modality
            if spec.task == "classification":
                row.append("" if gone else spec.classes[int(prob.argmax())])
            row += ["" if gone else str(p) for p in prob]
        out.append(row)
    return out


def _quoted(file: str) -> str:
    """Return a path as an override takes any."""
    escaped = file.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.predict", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run, or an exported network")
    p.add_argument("overrides", nargs="*", help="data.*")
    p.add_argument("--data", nargs="+", required=True, metavar="FILE", help="what data.path of the run takes")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="CSV", help="the file that is written")
    p.add_argument("--checkpoint", choices=["best", "last"], default="best", help="weights (default: best)")
    p.add_argument("--accelerator", help="where to compute: cpu, gpu, auto (default: as the run)")
    p.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code an export may name")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_intermixed_args(argv)
    if args.out.is_dir():
        remedy = f"give -o {quoted(args.out / 'predictions.csv')}"
        raise UserError(f"-o {args.out}", "a folder", "the path of a CSV file", remedy)
    make_folder(args.out.parent, f"-o {args.out}", "give -o predictions.csv")
    text = predict(args.run, args.data, args.overrides, args.checkpoint, args.accelerator, args.trust)
    write_text(args.out, text)
    print(f"{args.out}  {text.count(chr(10)) - 1} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
