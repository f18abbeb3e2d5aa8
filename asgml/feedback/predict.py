"""Score new pictures with a finished run, or an export of one; labels and masks are not needed.

    python -m asgml.feedback.predict RUN --class candle --data photos -o scores.csv --maps maps

RUN is the directory of a finished run, or what `asgml.feedback.export` has made of one. --class is the word in the
prompts ("a photo of a damaged candle"): any name works, also one that nothing was trained on; it may be left out where
the run has a single class. Words after the run: score.* (blur, sigma, detection), loader.eval_batch_size. The CSV has
one row per picture:

    file, class        the picture, and the word
    score              how damaged it is after the last loop; a threshold is
                       yours to choose, from pictures that you know
    score/loop<n>      after every loop, where there are several
    map                with --maps: the name of its files there, <map>.png
                       (the last loop's map over the picture, in colours from
                       its least to its largest score) and <map>.npy (the map,
                       float32, a square of the run's size)
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asgml.feedback.data.named import named
from asgml.feedback.finished import asked, class_of, told_of
from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from callbacks.files.folders import make_folder
from suite.runs.command import command, command_parser
from suite.runs.exported import is_export

if TYPE_CHECKING:
    from torch import Tensor

    from asgml.feedback.data.dataset import SurfaceDataset

ALSO = ("score", "loader.eval_batch_size")


def predict(
    run_dir: Path,
    places: Sequence[str],
    class_name: str | None = None,
    maps: Path | None = None,
    overrides: Sequence[str] = (),
    which: str | None = None,
    accelerator: str | None = None,
    clip: str | None = None,
    trusted: Collection[str] = (),
) -> str:
    """Return the scores of pictures as CSV.

    Args:
        run_dir: the directory of a finished run, or what `asgml.feedback.export` has made of one.
        places: pictures and folders of pictures.
        class_name: the word in the prompts; None is the only class of the run.
        maps: the folder that maps are written to; None writes none.
        overrides: `score.*` and `loader.eval_batch_size`.
        which: the weights: `best` or `last`; None is `best` of a run, and those of an export.
        accelerator: where to compute; None is the run's own setting.
        clip: where the CLIP lies, in place of the run's `clip.source`.
        trusted: packages besides this suite's whose code an export may name.

    Raises:
        UserError: no finished run, a class that has to be named, pictures that cannot be read, or weights that an
            export does not have.
    """
    cfg = asked(run_dir, overrides, "score.blur=9", ALSO)
    told = told_of(run_dir)
    if is_export(run_dir) and which not in (None, told["checkpoint"]):
        found = f"an export of the {told['checkpoint']} weights"
        raise UserError(f"--checkpoint {which}", found, "a run, which has both", "leave --checkpoint out")
    name = class_of(told["classes"], class_name)
    samples = named(places, name)
    if accelerator is not None:
        cfg.trainer.accelerator = accelerator

    from asgml.feedback.data.dataset import SurfaceDataset
    from asgml.feedback.exported import load
    from asgml.feedback.restore import restore
    from asgml.feedback.scorer import score

    surfaces = SurfaceDataset(samples, int(cfg.size))
    run = load(run_dir, clip, trusted, cfg) if is_export(run_dir) else restore(run_dir, which or "best", clip, cfg)
    run.module.model.name_classes([name])
    loops = max(1, run.module.model.loops)
    out, taken = io.StringIO(), set[str]()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header(loops, maps is not None))

    def take(numbers: Sequence[int], values: Tensor, scores: Tensor) -> None:
        for i, pixels, each in zip(numbers, values, scores.numpy(), strict=True):
            row = [str(samples[i].image), name, str(each[-1]), *(map(str, each) if loops > 1 else ())]
            if maps is not None:
                row.append(write_map(surfaces, i, pixels[-1:], maps, taken))
            writer.writerow(row)

    score(run, surfaces, take)
    return out.getvalue()


def header(loops: int, maps: bool) -> list[str]:
    """Return the columns.

    Args:
        loops: the number of loops.
        maps: whether maps are written.
    """
    single = [f"score/loop{n}" for n in range(1, loops + 1)] if loops > 1 else []
    return ["file", "class", "score", *single, *(["map"] if maps else [])]


def write_map(surfaces: SurfaceDataset, number: int, pixels: Tensor, folder: Path, taken: set[str]) -> str:
    """Write the map of a picture as PNG and as array, and return the stem of both.

    Args:
        surfaces: the pictures.
        number: that of the picture.
        pixels: its map, (1, S, S).
        folder: the folder that it is written to.
        taken: the stems of the files that are there already.
    """
    import numpy as np

    from asgml.feedback.data.files import read_picture
    from asgml.feedback.pictures import free_stem, panels
    from callbacks.files.atomic import in_one_piece

    sample = surfaces.samples[number]
    stem = free_stem(sample.image.stem, taken)
    with in_one_piece(folder / f"{stem}.npy") as file:
        np.save(file, pixels[0].numpy())
    with in_one_piece(folder / f"{stem}.png") as file:
        panels(read_picture(sample, surfaces.size), None, pixels).save(file, "PNG")
    return stem


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.feedback.predict", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run, or an export")
    p.add_argument("overrides", nargs="*", help=", ".join(ALSO))
    p.add_argument("--class", dest="class_name", metavar="NAME", help="the word in the prompts")
    p.add_argument("--data", nargs="+", required=True, metavar="PATH", help="pictures, and folders of pictures")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="CSV", help="the file that is written")
    p.add_argument("--maps", type=Path, metavar="FOLDER", help="where maps are written")
    p.add_argument("--checkpoint", choices=["best", "last"], help="weights of a run (default: best)")
    p.add_argument("--clip", metavar="PLACE", help="folder or hub id of the CLIP (default: as the run)")
    p.add_argument("--accelerator", help="where to compute: cpu, gpu, auto (default: as the run)")
    p.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code an export may name")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_intermixed_args(argv)
    if args.out.is_dir():
        raise UserError(f"-o {args.out}", "a folder", "the path of a CSV file", f"give -o {args.out / 'scores.csv'}")
    if args.maps is not None and args.maps.exists() and not args.maps.is_dir():
        raise UserError(f"--maps {args.maps}", "a file", "a folder", f"give --maps {args.maps}-maps")
    make_folder(args.out.parent, f"-o {args.out}", "give -o scores.csv")
    text = predict(
        args.run,
        args.data,
        args.class_name,
        args.maps,
        args.overrides,
        args.checkpoint,
        args.accelerator,
        args.clip,
        args.trust,
    )
    write_text(args.out, text)
    print(f"{args.out}  {text.count(chr(10)) - 1} pictures")
    if args.maps is not None:
        print(f"{args.maps}  their maps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
