"""Prove that a restructuring changed no number: the same short runs in a base revision and in this tree, bit for bit.

    .venv/bin/python tests/bit_identity.py --base 3d2b980 --keep ../identity            # the core list
    .venv/bin/python tests/bit_identity.py --base 3d2b980 --keep ../identity --only '*'  # and every method

Compared are final and best weights, the optimiser's state, every table and prediction and the numbers of
`result.json`; left out is what is measured (time, memory) and what names the code (hashes, `_target_`, wording of
results). The base runs in a worktree of its own; with `--keep` its outputs stay and are not made again. Exit code 1
on any difference and on any command that fails.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
EXIT_SIGTERM = 143
SHOWN = 3  # differences of each kind
LOG_LINES = 20
MEASURED = re.compile(r"(^|\s)(time|memory)/|(_ms|seconds|_memory_mb|_cuda_mb)$")
# Of `result.json`: what says which code ran, where and when.
ABOUT = {"program", "experiment", "hash", "versions", "commit", "dirty", "started", "finished", "identity"}
ABOUT |= {"configuration", "inputs", "code", "device", "sha256"}
Cells = dict[str, Any]  # place -> tensor or text

# Command lines; `{data}` and `{out}` stand for folders.
SHORT = {
    "asgml": "experiment=cremad_mini trainer.max_epochs=3 loader.limit=384 optimizer.lr=0.1 cosine_every=2 "
    "trainer.log_every_n_steps=1 callbacks.progress=null callbacks.probe.every=3 callbacks.diagnostics.every=2 "
    "paths.runs={out}/runs paths.data={data}",
    "latentwire": "experiment=pocket_smoke trainer.max_epochs=2 loader.steps_per_epoch=6 loader.batch_size=4 "
    "loader.questions=2 loader.eval_passages=6 loader.eval_questions=2 corpus.train=200 wire.measured_texts=16 "
    "evaluation.passages=6 evaluation.n_boot=50 evaluation.max_new_tokens=4 "
    "lr_schedule.warmup_steps=2 trainer.log_every_n_steps=1 callbacks.progress=null "
    "callbacks.audit.within=6 callbacks.diagnostics.every=2 "
    "paths.runs={out}/runs paths.data={data} paths.cache={out}/cache",
}
FREQUENCY, STALENESS, BOOST = "method=asgml_frequency", "method=asgml_staleness", "asgml.boost.threshold_delta=0.0"
ADAPTIVE = "method=asgml_adaptive asgml.adaptive.update_every=4 asgml.adaptive.threshold_delta=0.0 "
ADAPTIVE += "asgml.adaptive.gap_full=0.04 asgml.adaptive.tau_base=1 asgml.adaptive.window=3"
# Those called `…_stopped` get a SIGTERM after their first checkpoint and are started again.
ASGML = {
    "joint": "method=joint",
    "rendered_anew": "method=joint data.path={out}/rendered data.samples=240 data.actors=12",
    "frequency_soft": f"{FREQUENCY} asgml.k=3",
    "frequency_accumulate": f"{FREQUENCY} asgml.k=3 asgml.masking=accumulate",
    "frequency_preserving": f"{FREQUENCY} asgml.delayed=all asgml.masking=fusion_preserving",
    "frequency_random_skip": f"{FREQUENCY} asgml.masking=hard asgml.control=random_skip",
    "staleness": f"{STALENESS} asgml.tau=2",
    "staleness_compensated": f"{STALENESS} asgml.tau={{audio:3,visual:1}} asgml.compensation=delay_compensated "
    "asgml.warmup=fresh asgml.buffer_dtype=bfloat16",
    "adaptive_hybrid": ADAPTIVE,
    "adaptive_frequency": f"{ADAPTIVE} asgml.adaptive.kind=frequency",
    "adaptive_stopped": f"{ADAPTIVE} callbacks.checkpoint.every_n_steps=4",
    "boost": f"method=boost {BOOST}",
    "ogm_ge_boost": f"method=[ogm_ge,boost] {BOOST} methods.ogm_ge.kernels=all",
    "pcgrad_missing": "method=pcgrad +loader.missing.audio=0.3",
    "mla_missing": "method=mla +loader.missing.visual=0.3",
    "averaged": f"{STALENESS} fusion=gated averaging=ema optimizer=adamw ~optimizer.momentum optimizer.lr=0.001 "
    "lr_schedule=cosine callbacks.clip.max_norm=1.0",
}
WIRES = {
    "deep_prefix": "injector=deep_prefix baseline=[text,best_sentence,mean_pooled,pca,replay]",
    "soft_prefix": "injector=soft_prefix curriculum=from_text objective=[answer_ce,answer_kd]",
    "two_readers_rvq": "readers=pocket_both codec=rvq +wire.private={pocket_llama:1,pocket_qwen:2}",
    "wire_stopped": "codec=int6 callbacks.checkpoint.every_n_steps=3",
}
# Each alone, as `method_NAME`, on command; umt is not here: it wants the checkpoints of other runs.
METHODS = """agm amco amst:factor=2 arl cagrad cggm cml dgl gblending:super_epoch=1 gradnorm greedy:begins=1 inforeg
lfm mbsd mgda miles:threshold=0.0 mimo mmcosine mmpareto mses:patience=1 mslr:history=2 opm:begins=1 pmr
reconboost:stage_epochs=1 relearn:every=1 remix:begins=1 ume uniform unimodal_audio unimodal_visual
valuation:begins=1"""
ALONE = {
    f"method_{method}": f"method={method} " + (f"methods.{method}.{setting}" if setting else "")
    for method, _, setting in (word.partition(":") for word in METHODS.split())
}
LINES = {
    name: ["-m", f"{program}.run", *SHORT[program].split(), *overrides.split()]
    for program, configurations in (("asgml", ASGML | ALONE), ("latentwire", WIRES))
    for name, overrides in configurations.items()
}


class Failure(Exception):
    """Says which command did not do what it should, with the end of its output."""


def run(name: str, overrides: list[str], tree: Path, out: Path, data: Path) -> float:
    """Run a configuration in a tree, its outputs under `out`; returns seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    line = [sys.executable, *(part.replace("{out}", str(out)).replace("{data}", str(data)) for part in overrides)]
    start = time.monotonic()
    if name.endswith("_stopped"):
        _process(line, tree, out, EXIT_SIGTERM)
    _process(line, tree, out, 0)
    return round(time.monotonic() - start, 1)


def _process(line: list[str], tree: Path, out: Path, expected: int) -> None:
    log = out / "output.txt"
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(line, cwd=tree, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            while expected == EXIT_SIGTERM and process.poll() is None:
                if any(out.glob("runs/*/*/checkpoints/last.ckpt")):
                    process.terminate()
                    break
                time.sleep(0.02)
            code = process.wait()
        finally:
            process.kill()
    if code != expected:
        printed = [text for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
        command = f"exit code {code}, not {expected}: cd {tree}; {' '.join(line)}"
        raise Failure("\n    ".join([command, *printed[-LOG_LINES:]]))


def outputs(out: Path) -> dict[str, Cells]:
    """Read all that the only run under `out` has left and that has to be the same, by kind."""
    found = list(out.glob("runs/*/*/result.json"))
    if len(found) != 1:
        raise Failure(f"{len(found)} run directories in {out / 'runs'}, not one")
    folder = found[0].parent
    kinds: dict[str, Cells] = {k: {} for k in ("tensors", "optimiser entries", "history cells", "predictions")}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for part in ("state_dict", "current_model_state"):  # the second beside averaged weights
            kinds["tensors"] |= {f"{path.name} {k}": t for k, t in saved.get(part, {}).items()}
        if path.name == "last.ckpt":
            progress = {"epoch": saved["epoch"], "global_step": saved["global_step"]}
            kinds["optimiser entries"] |= flat({"optimizer": saved["optimizer_states"], **progress}, "last.ckpt")
    for name in ("history.csv", "timeline.csv", "events.csv"):
        kinds["history cells"] |= table(folder / name)
    for path in sorted(folder.glob("predictions*.npz")):
        with np.load(path) as arrays:
            kinds["predictions"] |= {f"{path.name} {k}": torch.from_numpy(arrays[k]) for k in arrays.files}
    for path in sorted(folder.glob("predictions*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kinds["predictions"] |= flat(rows, path.name)
    result = {k: v for k, v in json.loads(found[0].read_text(encoding="utf-8")).items() if k not in ABOUT}
    kinds["results"] = flat(result, "result.json", wording=False)
    return kinds


def flat(value: Any, place: str, wording: bool = True) -> Cells:
    """List the leaves of nested containers by their place, without what is measured; texts on demand."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in flat(part, f"{place} {key}", wording).items()}
    if MEASURED.search(place) or (isinstance(value, str) and not wording):
        return {}
    return {place: value if isinstance(value, Tensor) else canonical(value)}


def canonical(value: Any) -> str:
    """Spells a number in one way, so that NaN is NaN and 1 is 1.0, and leaves anything else as it is."""
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        return str(value)


def table(path: Path) -> Cells:
    """Read the cells of a table by step, name and column, counting a name that comes twice in a step."""
    cells: Cells = {}
    if not path.exists():
        return cells
    seen: Counter[str] = Counter()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = " ".join(row.pop(key) for key in ("name", "modality", "kind") if key in row)
            place = f"{path.name} step {row.pop('step')} {name}"
            if not MEASURED.search(name):
                seen[place] += 1
                count = f" (no. {seen[place]})" if seen[place] > 1 else ""
                cells |= {f"{place}{count}, {column}": canonical(value) for column, value in row.items()}
    return cells


def difference(base: Any, new: Any) -> str | None:
    """Tells how two cells differ; returns None where every bit is the same, whatever kind of NaN."""
    if not (isinstance(base, Tensor) and isinstance(new, Tensor)):
        return None if isinstance(base, str) and base == new else f"{base} in the base, {new} here"
    if base.dtype != new.dtype or base.shape != new.shape:
        return f"{base.dtype} {tuple(base.shape)} in the base, {new.dtype} {tuple(new.shape)} here"
    unequal = (_bits(base) != _bits(new)).reshape(base.numel(), -1).any(1) if base.numel() else torch.zeros(0)
    if not unequal.any():
        return None
    at = int(unequal.nonzero()[0])
    values = f"{base.flatten()[at].item()!r} in the base, {new.flatten()[at].item()!r} here"
    return f"{int(unequal.sum())} of {base.numel()} values; flat index {at}: {values}"


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.detach().contiguous().reshape(-1)
    if plain.is_floating_point():
        plain = torch.where(plain.isnan(), torch.full_like(plain, torch.nan), plain)
    return plain.view(torch.uint8)


def compare(base: dict[str, Cells], new: dict[str, Cells]) -> tuple[str, list[str]]:
    """Compares kind by kind; returns how much there was, and the first differences of each kind with their number."""
    found: list[str] = []
    for kind, old in base.items():
        here = new[kind]
        lines = [f"{k}: only in the base" for k in old if k not in here]
        lines += [f"{k}: only here" for k in here if k not in old]
        lines += [f"{k}: {d}" for k, v in old.items() if k in here and (d := difference(v, here[k])) is not None]
        if steps(old) != steps(here):
            lines.append("the steps of a table come in another order")
        found += lines[:SHOWN] + ([f"… {len(lines)} such lines on {kind}"] if len(lines) > SHOWN else [])
    counts = {
        kind: sum(v.numel() if kind == "predictions" and isinstance(v, Tensor) else 1 for v in cells.values())
        for kind, cells in base.items()
    }
    found += [f"nothing to compare: no {kind}" for kind, n in counts.items() if not n]
    moved = list(base["history cells"]) != list(new["history cells"])
    remark = "; within a step, rows come in another order" if moved else ""
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) + remark, found


def steps(cells: Cells) -> list[str]:
    """List the tables' steps in the order of their rows, each once while it lasts."""
    return [step for step, _ in groupby(place.split(" step ")[1].split(" ")[0] for place in cells if " step " in place)]


def git(*arguments: str) -> str:
    """Run git in this checkout; returns what it printed."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def base_outputs(
    name: str, renamed: dict[str, str], tree: Path, out: Path, data: Path
) -> tuple[dict[str, Cells], float]:
    """Return outputs and seconds of the base, made now or kept from an earlier call with the same line and torch."""
    line = [old_keys(part, renamed) for part in LINES[name]]
    done, key = out / "done.json", {"line": line, "torch": torch.__version__}
    kept = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    if {k: kept.get(k) for k in key} != key:
        kept = {**key, "seconds": run(name, line, tree, out, data)}
        done.write_text(json.dumps(kept, indent=2), encoding="utf-8")
    return outputs(out), kept["seconds"]


def old_keys(override: str, renamed: dict[str, str]) -> str:
    """Return an override with the key that the base knows."""
    key, equals, value = override.partition("=")
    return renamed.get(key, key) + equals + value


def judge(names: list[str], renamed: dict[str, str], base_tree: Path, tree: Path, kept: Path, temporary: Path) -> int:
    """Run and compares configurations, one line or more for each; returns how many are not identical."""
    wrong = 0
    for name in names:
        where, found = "base", list[str]()
        try:
            base, before = base_outputs(name, renamed, base_tree, kept / name, kept / "data")
            where = "new tree"
            after = run(name, LINES[name], tree, temporary / name, kept / "data")
            counts, found = compare(base, outputs(temporary / name))
            verdict = "DIFFERENT" if found else f"identical ({counts}; {before} s, {after} s)"
        except (Failure, KeyError, OSError, ValueError, UnpicklingError) as error:
            verdict = f"FAILED in the {where}: {error if isinstance(error, Failure) else repr(error)}"
        print(f"{name}: {verdict}", *found, sep="\n    ", flush=True)
        wrong += not verdict.startswith("identical")
    print(f"{len(names) - wrong} of {len(names)} configurations are identical")
    return wrong


def stop(*_: Any) -> None:
    """End this process on SIGTERM as on Ctrl-C, so that the worktree is removed; a second signal is not heard."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(EXIT_SIGTERM)


def main() -> int:
    """Read the command line, makes and removes the base's worktree, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="REVISION", help="the revision that has the right numbers")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these configurations (* and ? allowed), not the core"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the base's outputs here, and reuse them")
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="DIR", help="the tree to judge; else this one")
    parser.add_argument(
        "--renamed", nargs="+", default=[], metavar="NEW=OLD", help="keys that have another name in the base"
    )
    parser.add_argument("--list", action="store_true", help="show the configurations and their command lines")
    args = parser.parse_args()
    chosen = [n for n in LINES if (any(fnmatch(n, p) for p in args.only) if args.only else n not in ALONE)]
    if args.list:
        print(*(f"{name}: {' '.join(LINES[name])}" for name in chosen), sep="\n")
        return 0
    if args.base is None or not chosen:
        parser.error("--base REVISION is needed" if chosen else f"no configuration is called {args.only}; see --list")
    signal.signal(signal.SIGTERM, stop)
    try:
        sha = git("rev-parse", "--verify", f"{args.base}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        parser.error(f"--base {args.base}: no such revision")
    with tempfile.TemporaryDirectory(prefix="bit_identity_") as temporary:
        base_tree, keep = Path(temporary) / "base", (args.keep or Path(temporary)).resolve()
        git("worktree", "add", "--quiet", "--detach", str(base_tree), sha)
        try:
            return int(
                judge(
                    chosen,
                    dict(pair.split("=") for pair in args.renamed),
                    base_tree,
                    args.tree.resolve(),
                    keep / sha[:12],
                    Path(temporary),
                )
                > 0
            )
        finally:
            git("worktree", "remove", "--force", str(base_tree))


if __name__ == "__main__":
    sys.exit(main())
