"""Score a finished run on other labelled pictures: `python -m asgml.feedback.evaluate RUN data=mvtec data.root=FOLDER`.

Nothing is trained: it is the published protocol, trained on one data set and tested on another. Everything labelled is
scored (in MVTec AD and VisA the part `test`), of data.test_classes where that is not null. Pictures that the run was
trained or chosen on are told by their content, left out and counted; --keep-seen scores them. A class that it was
trained on is named. What is asked has a hash of its own, and lies with its numbers and maps of damaged pictures in
`RUN/evaluations/HASH/`; asked twice, the numbers that are there are shown. Without a word after the run, or with its
own data, its own test is scored, and the numbers are the run's own. Words after the run are overrides of its
configuration:

    data.*                what is scored: data.root, data.test_classes …
    data=NAME             another source: mvtec, visa, magnetic_tile, surfaces
    score.*               blur, sigma and detection: medical pictures are
                          published with 9, 1.5 and 0
    loader.eval_batch_size, trainer.accelerator
                          how it computes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from asgml.feedback.finished import DATA, GOES_ON, asked
from callbacks.errors import UserError
from suite.runs.command import command, command_parser, split_config_dirs
from suite.runs.evaluations import evaluation_identity, inputs_unchanged, keep, kept
from suite.runs.finished import EVALUATIONS, require_finished
from suite.runs.lock import held

if TYPE_CHECKING:
    from asgml.feedback.data.sample import Sample

ALSO = ("score", "loader.eval_batch_size", "trainer.accelerator")
EXAMPLE = "data.root='my folder'"
SHOWN = ("pixel_auroc", "aupro", "image_auroc", "image_ap")  # of every class, on the terminal

LEFT = len("pixel_auroc_within")  # columns of the names of metrics


def identity(cfg: DictConfig, which: str, keep_seen: bool = False) -> str:
    """Return the hash of what is scored: the data by content, how maps become scores, and the weights."""
    more = {"keep_seen": True} if keep_seen else {}
    return evaluation_identity(cfg, {**_data(cfg), "score": cfg.score, "checkpoint": which, **more})


def samples_of(
    run_dir: Path, own: DictConfig, cfg: DictConfig, keep_seen: bool = False
) -> tuple[list[Sample], list[str], list[str]]:
    """Return the pictures that are scored, the classes that prompts are of, and a line for each thing to know.

    Args:
        run_dir: the directory of a finished run.
        own: its configuration.
        cfg: the same with the data that are asked for.
        keep_seen: whether pictures that the run has seen in training are scored as well.

    Raises:
        UserError: no picture that can be scored.
    """
    from asgml.data.seen import unseen_rows
    from asgml.feedback.data.seen import picture_contents, read_seen
    from asgml.feedback.data.sources import SurfaceSource
    from suite.config.instantiate import build_node

    source, result = build_node(cfg.data), require_finished(run_dir, GOES_ON)
    trained = {name for split in ("train", "val") for name in result["pictures"][split]}
    told = list[str]()
    if inputs_unchanged(result, cfg) and evaluation_identity(cfg, _data(cfg)) == evaluation_identity(own, _data(own)):
        splits = source.splits(int(cfg.seed))
        samples, classes = splits.test, splits.classes
    elif isinstance(source, SurfaceSource):
        everything, told = source.labelled()
        rows, more = unseen_rows(picture_contents(everything), read_seen(run_dir), keep_seen, "pictures")
        samples = [everything[i] for i in rows]
        classes = list(dict.fromkeys(s.class_name for s in samples))
        told += more
    else:
        found = f"{type(source).__name__}, which has no labelled()"
        raise UserError(DATA, found, "a source that finished runs can be scored on", "add it, as SurfaceFolders has it")
    return samples, classes, [*told, *_judged(samples, trained)]


def _data(cfg: DictConfig) -> dict[str, Any]:
    return {DATA: cfg.data, "seed": cfg.seed}


def _judged(samples: Sequence[Sample], trained: set[str]) -> list[str]:
    """Return a line for each thing to know about classes; refuse pictures of which there is nothing to measure."""
    kinds: dict[str, set[bool]] = {}
    for s in samples:
        kinds.setdefault(s.class_name, set()).add(s.anomalous)
    if not any(True in found for found in kinds.values()):
        expected = "at least one, which the metrics are of"
        found = f"no damaged one among {len(samples)} pictures"
        raise UserError(DATA, found, expected, "score pictures without labels: python -m asgml.feedback.predict RUN")
    normal = [name for name, found in kinds.items() if found == {False}]
    damaged = [name for name, found in kinds.items() if found == {True}]
    seen = [name for name in kinds if name in trained]
    told = [f"no damaged picture of {', '.join(normal)}: in no mean over classes"] if normal else []
    told += [f"no normal picture of {', '.join(damaged)}: in no mean of a metric of pictures"] if damaged else []
    told += [f"trained on other pictures of {', '.join(seen)}: not zero-shot there"] if seen else []
    return told


def evaluate(
    run_dir: Path,
    overrides: Sequence[str] = (),
    which: str = "best",
    anew: bool = False,
    config_dirs: Sequence[Path] = (),
    keep_seen: bool = False,
    clip: str | None = None,
) -> dict[str, Any]:
    """Score a finished run; return the result that is stored, `test` and `per_class` among it.

    Args:
        run_dir: the run's directory.
        overrides: the words after it.
        which: the weights: `best` or `last`.
        anew: whether numbers that are there are measured again.
        config_dirs: further folders with choices of `data`.
        keep_seen: whether pictures that the run has seen in training are scored as well.
        clip: where its CLIP lies, in place of `clip.source`.

    Raises:
        UserError: a run that is not finished or in use, or pictures that it cannot score.
    """
    own = asked(run_dir, (), EXAMPLE, ())
    cfg = asked(run_dir, overrides, EXAMPLE, ALSO, True, config_dirs)
    require_finished(run_dir, GOES_ON)

    from asgml.feedback.build import by_stages, plan_of
    from asgml.feedback.tracking import track

    folder = run_dir / EVALUATIONS / identity(cfg, which, keep_seen)
    with held(run_dir.resolve()):
        there = None if anew else kept(folder)
        result = there or measure(run_dir, own, cfg, which, folder, keep_seen, clip)
        track(run_dir, by_stages(own, plan_of(own)), cfg, folder, result)  # the tree that trackers know the run by
    return result


def measure(
    run_dir: Path,
    own: DictConfig,
    cfg: DictConfig,
    which: str,
    folder: Path,
    keep_seen: bool = False,
    clip: str | None = None,
) -> dict[str, Any]:
    """Score a finished run, and write what was found into a folder.

    Args:
        run_dir: the run's directory.
        own: its configuration.
        cfg: the same with the data that are asked for.
        which: the weights: `best` or `last`.
        folder: the folder.
        keep_seen: whether pictures that the run has seen in training are scored as well.
        clip: where its CLIP lies, in place of `clip.source`.
    """
    start = time.perf_counter()
    samples, classes, told = samples_of(run_dir, own, cfg, keep_seen)

    from asgml.feedback.data.dataset import SurfaceDataset
    from asgml.feedback.data.sources import counts
    from asgml.feedback.pictures import save_pictures
    from asgml.feedback.report.sections import FOLDER
    from asgml.feedback.restore import restore
    from asgml.feedback.train.data import evaluation_loader
    from suite.shell import inference_trainer

    surfaces = SurfaceDataset(samples, int(cfg.size), classes)
    run = restore(run_dir, which, clip, cfg)
    run.module.model.name_classes(classes)
    loader = evaluation_loader(surfaces, int(cfg.loader.eval_batch_size), int(cfg.seed))
    inference_trainer(cfg).test(run.module, dataloaders=loader, verbose=False)
    save_pictures(run.module, surfaces, folder / FOLDER)
    found = {
        "test": run.module.metrics["test"],
        "per_class": {"test": run.module.per_class["test"]},
        "pictures": counts(samples),
        "samples": len(samples),
        "remarks": told,
        "seconds": round(time.perf_counter() - start, 3),
    }
    question = {DATA: cfg.data, "score": cfg.score, "checkpoint": which}
    return keep(folder, cfg, question, run.result, found)


def lines(result: dict[str, Any]) -> list[str]:
    """Return what the terminal shows of an evaluation: means of every loop, and the classes after the last one."""
    loops = result["per_class"]["test"]
    names = [name for name in result["test"] if "/" not in name]
    told = [f"  {'mean over classes':{LEFT}}" + "".join(f"  {f'loop {n}':>8}" for n in range(1, len(loops) + 1))]
    for name in names:
        cells = (result["test"].get(f"{name}/loop{n}") for n in range(1, len(loops) + 1))
        told.append(f"  {name:{LEFT}}" + "".join(_cell(c, 8) for c in cells))
    classes = result["pictures"]
    if len(classes) > 1:
        width = max(LEFT, *map(len, classes))
        told.append(f"  {'class':{width}}" + "".join(f"  {name:>11}" for name in SHOWN))
        for name in classes:
            told.append(f"  {name:{width}}" + "".join(_cell(loops[-1][name][metric], 11) for metric in SHOWN))
    return told


def _cell(value: float | None, width: int) -> str:
    return "  " + ("–" if value is None else f"{value:.4f}").rjust(width)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.feedback.evaluate", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("overrides", nargs="*", help="data.* and the other words above")
    p.add_argument("--checkpoint", choices=["best", "last"], default="best", help="weights (default: best)")
    p.add_argument("--keep-seen", action="store_true", help="score pictures that the run has seen as well")
    p.add_argument("--clip", metavar="PLACE", help="folder or hub id of the CLIP (default: as the run)")
    p.add_argument("--again", action="store_true", help="measure again what is there")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    config_dirs, rest = split_config_dirs(list(sys.argv[1:] if argv is None else argv))
    args = parser().parse_intermixed_args(rest)
    result = evaluate(args.run, args.overrides, args.checkpoint, args.again, config_dirs, args.keep_seen, args.clip)
    damaged = sum(count["damaged"] for count in result["pictures"].values())
    print(f"{result['samples']} pictures, {damaged} damaged, {args.checkpoint} weights of {args.run}")
    for line in (*(f"  {told}" for told in result["remarks"]), *lines(result)):
        print(line)
    print(args.run / EVALUATIONS / result["evaluation"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
