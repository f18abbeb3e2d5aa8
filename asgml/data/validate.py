"""What every source must keep, checked once before training: wrong tables are told now, not as NaN in epoch 7."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from asgml.data.dataset import take
from asgml.data.spec import RANK, SPLITS, DataSpec, Split, Table
from callbacks.errors import UserError

_CHUNK = 1 << 24  # elements looked at in one go


def nonfinite(x: np.ndarray, rows: np.ndarray) -> tuple[int, tuple[int, ...], str] | None:
    """Count, first place (row of `x`, then the column inside it) and value of NaN or infinity among `rows`.

    None when all are finite. Integers are never looked at.
    """
    if x.dtype.kind not in "fc" or not len(rows):
        return None
    step = max(1, _CHUNK // max(1, int(np.prod(x.shape[1:]))))
    count, value = 0, ""
    first: tuple[int, ...] = ()
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        bad = np.argwhere(~np.isfinite(x[part]))
        if len(bad) and not count:
            first = (int(part[bad[0, 0]]), *map(int, bad[0, 1:]))
            value = str(x[first])
        count += len(bad)
    return (count, first, value) if count else None


def place(first: tuple[int, ...]) -> str:
    """ "row 3, column 7", or "row 3, column (0, 7)" where a sample has several dimensions."""
    column = first[1:]
    if not column:
        return f"row {first[0]}"
    return f"row {first[0]}, column {column[0] if len(column) == 1 else column}"


def validate(spec: DataSpec, tables: Mapping[Split, Table]) -> list[str]:
    """Raise `UserError` for what makes training wrong; return a line for each thing that only deserves a warning.

    Only arrays in RAM are scanned for NaN. Memory-mapped ones may be larger than the memory; whoever writes them
    checks them while writing.
    """
    _names(spec)
    for split in SPLITS:
        if split not in tables or not len(tables[split]):
            raise UserError(
                f"data, {split} split",
                "no sample",
                "at least one sample in each of train, val and test",
                "check the split lists, or the fractions from which the splits are cut",
            )
        _shapes(spec, split, tables[split])
        _labels(spec, split, tables[split])
        _values(split, tables[split])
        _presence(split, tables[split])
    _disjoint(tables)
    for split in SPLITS:
        _transforms(spec, split, tables[split])
    return _warnings(spec, tables)


def _names(spec: DataSpec) -> None:
    if not spec.modalities:
        raise UserError("data", "no modality", "at least one", "check the data set's files")
    for key, modality in spec.modalities.items():
        if key == "fusion" or not key or any(c in "/,\n" for c in key):
            raise UserError(
                f"data, modality {key!r}",
                "a reserved name (the fusion group is called so, and metrics are named <metric>/<modality>)",
                "a non-empty name other than `fusion`, without slash, comma or line break",
                "rename the modality",
            )
        if modality.name != key or modality.kind not in RANK or len(modality.shape) != RANK[modality.kind]:
            raise UserError(
                f"data, modality {key!r}",
                f"name {modality.name!r}, kind {modality.kind!r}, shape {modality.shape}",
                f"name {key!r} and one of: " + ", ".join(f"{k} with {r} dimension(s)" for k, r in RANK.items()),
                "correct the source's `spec`",
            )
    if spec.dominant is not None and spec.dominant not in spec.modalities:
        raise UserError(
            "data.dominant", repr(spec.dominant), f"one of {', '.join(spec.modalities)}", "correct data.dominant"
        )
    if len(spec.classes) < 2 or len(set(spec.classes)) != len(spec.classes):
        raise UserError(
            "data.classes", str(spec.classes), "two or more distinct class names", "correct the class names"
        )


def _shapes(spec: DataSpec, split: Split, table: Table) -> None:
    names = list(spec.modalities)
    for what, keys in (("x", table.x), ("present", table.present), ("transforms", table.transforms)):
        if set(keys) != set(names):
            raise UserError(
                f"data, {split} split, `{what}`",
                f"modalities {sorted(keys)}",
                f"exactly {names}",
                "correct the source: `spec` and `tables` must agree",
            )
    lengths = {f"x[{m}]": len(table.x[m]) for m in names} | {f"present[{m}]": len(table.present[m]) for m in names}
    for what, length in {"ids": len(table.ids), **lengths}.items():
        if length != len(table):
            raise UserError(
                f"data, {split} split, {what}", f"{length} rows", f"{len(table)}, as in y", "correct the source"
            )


def _labels(spec: DataSpec, split: Split, table: Table) -> None:
    y = table.y
    if y.dtype != np.int64 or y.ndim != 1:
        raise UserError(
            f"data, {split} split, y", f"{y.dtype} of shape {y.shape}", "int64 of shape (n,)", "correct the source"
        )
    wrong = np.flatnonzero((y < 0) | (y >= len(spec.classes)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"data, {split} split, row {row} ({table.ids[row]})",
            f"label {y[row]} ({len(wrong)} label(s) outside the classes in all)",
            f"0 to {len(spec.classes) - 1}: {', '.join(spec.classes[:12])}",
            "correct the labels, or the list of classes",
        )


def _values(split: Split, table: Table) -> None:
    for modality, x in table.x.items():
        present = table.present[modality]
        if present.dtype != np.bool_ or present.ndim != 1:
            raise UserError(
                f"data, {split} split, present[{modality}]",
                f"{present.dtype} of shape {present.shape}",
                "bool of shape (n,)",
                "correct the source",
            )
        if type(x) is not np.ndarray:  # a memory map or rows of one
            continue
        found = nonfinite(x, np.flatnonzero(present))
        if found:
            count, first, value = found
            raise UserError(
                f"data, {split} split, x[{modality}], {place(first)} ({table.ids[first[0]]})",
                f"{value} ({count} value(s) that are not finite in all)",
                "finite numbers",
                "correct these values, or mark the rows as missing",
            )


def _presence(split: Split, table: Table) -> None:
    for modality, present in table.present.items():
        if split == "train" and not present.any():
            raise UserError(
                f"data, modality {modality}",
                "missing in every training sample",
                "present in at least one",
                "check its files, or leave the modality out",
            )
    alone = np.flatnonzero(~np.any(np.stack(list(table.present.values())), axis=0))
    if len(alone):
        raise UserError(
            f"data, {split} split",
            f"{len(alone)} sample(s) without any modality, first {', '.join(table.ids[i] for i in alone[:5])}",
            "at least one modality in every sample",
            "remove these samples, or correct what marks them as missing",
        )


def _disjoint(tables: Mapping[Split, Table]) -> None:
    owner: dict[str, Split] = {}
    for split in SPLITS:
        for i in tables[split].ids:
            if i in owner:
                raise UserError(
                    f"data, sample {i}",
                    f"in {owner[i]} and again in {split}" if owner[i] != split else f"twice in {split}",
                    "every sample once, in one split",
                    "correct the split lists",
                )
            owner[i] = split


def _transforms(spec: DataSpec, split: Split, table: Table) -> None:
    """One present row through each transform: the spec's shape, and finite numbers."""
    for name, modality in spec.modalities.items():
        rows = np.flatnonzero(table.present[name])[:1]
        if not len(rows):
            continue
        out = table.transforms[name](take(table.x[name], rows), np.zeros(1, np.uint64), False)
        kind = "integers" if modality.kind == "tokens" else "float32"
        if tuple(out.shape[1:]) != tuple(modality.shape) or (str(out.dtype) == "torch.float32") != (kind == "float32"):
            raise UserError(
                f"data, {split} split, transform of {name}",
                f"{out.dtype} of shape {tuple(out.shape[1:])} per sample",
                f"{kind} of shape {tuple(modality.shape)}, as its spec says",
                "correct the source",
            )
        if not bool(out.isfinite().all()):
            raise UserError(
                f"data, {split} split, transform of {name}, sample {table.ids[rows[0]]}",
                "NaN or infinity",
                "finite numbers",
                "prepare the data set again; if it persists, correct the transform",
            )


def _warnings(spec: DataSpec, tables: Mapping[Split, Table]) -> list[str]:
    lines = []
    for split in SPLITS:
        counts = np.bincount(tables[split].y, minlength=len(spec.classes))
        absent = [c for c, n in zip(spec.classes, counts) if n == 0]
        if absent:
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            effect = "never learned" if split == "train" else "not measured"
            lines.append(f"{split} has no sample of {', '.join(absent[:8])}{more}: {effect}")
        for modality, present in tables[split].present.items():
            if not present.any():
                lines.append(f"{modality} is missing in all of {split}: its accuracy there is undefined")
    return lines
