"""What every source must keep, checked once before training, so that a wrong table is no NaN in epoch 7."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from asgml.data.dataset import take
from asgml.data.spec import RANK, SPLITS, DataSpec, Split, Table
from asgml.data.splits import shared_groups
from callbacks.errors import UserError

_CHUNK = 1 << 24  # elements looked at in one go


def nonfinite(x: np.ndarray, rows: np.ndarray) -> tuple[int, tuple[int, ...], str] | None:
    """Return count, first place (row of `x`, then the column inside it) and value of NaN or infinity among `rows`.

    None where all are finite; integers are never looked at.
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
    """Return "row 3, column 7", or "row 3, column (0, 7)" where a sample has several dimensions."""
    column = first[1:]
    if not column:
        return f"row {first[0]}"
    return f"row {first[0]}, column {column[0] if len(column) == 1 else column}"


def validate(spec: DataSpec, tables: Mapping[Split, Table]) -> list[str]:
    """Refuse what makes training wrong, and return a line for each thing that only deserves a warning.

    Only arrays in RAM are scanned for NaN. Memory-mapped ones may be larger than the memory; whoever writes them checks
    them while writing.

    Raises:
        UserError: naming the split, the array and the row at fault.
    """
    _check_spec(spec)
    for split in SPLITS:
        if split not in tables or not len(tables[split]):
            raise UserError(
                f"data, {split} split",
                "no sample",
                "at least one sample in each of train, val and test",
                f"give more samples, list some as {split}, or raise data.val_fraction and data.test_fraction",
            )
        _check_shapes(spec, split, tables[split])
        _check_labels(spec, split, tables[split])
        _check_values(split, tables[split])
        _check_presence(split, tables[split])
        _check_lengths(spec, split, tables[split])
    _check_disjoint(tables)
    for split in SPLITS:
        _check_transforms(spec, split, tables[split])
    return _warnings(spec, tables)


def validate_new(spec: DataSpec, table: Table, labelled: bool) -> list[str]:
    """Refuse what makes predictions of new samples wrong, and return a line for each thing to know about them.

    Args:
        spec: what the network was trained on.
        table: the new samples.
        labelled: whether their labels are read.

    Raises:
        UserError: naming the array and the row at fault.
    """
    if not len(table):
        raise UserError("data", "no sample", "at least one", "give files with samples in them")
    _check_shapes(spec, "test", table)
    _check_labels(spec, "test", table)
    _check_values("test", table)
    _check_presence("test", table)
    _check_lengths(spec, "test", table)
    _check_transforms(spec, "test", table)
    if labelled:
        return _warnings(spec, {"test": table})
    without = [f"no sample has {m}: predicted without" for m, present in table.present.items() if not present.any()]
    return [*table.remarks, *without]


def _check_spec(spec: DataSpec) -> None:
    if not spec.modalities:
        raise UserError("data", "no modality", "at least one", "let the source's spec() name its modalities")
    for key, modality in spec.modalities.items():
        if key == "fusion" or not key or any(c in "/,\n" for c in key):
            raise UserError(
                f"data, modality {key!r}",
                "a reserved name (the fusion group is called so, and metrics are named <metric>/<modality>)",
                "a non-empty name other than `fusion`, without slash, comma or line break",
                "rename the modality in the data, e.g. its array x_fusion to x_both",
            )
        if modality.name != key or modality.kind not in RANK or len(modality.shape) != RANK[modality.kind]:
            raise UserError(
                f"data, modality {key!r}",
                f"name {modality.name!r}, kind {modality.kind!r}, shape {modality.shape}",
                f"name {key!r} and one of: " + ", ".join(f"{k} with {r} dimension(s)" for k, r in RANK.items()),
                "let the source's spec() return such a ModalitySpec",
            )
    if spec.dominant is not None and spec.dominant not in spec.modalities:
        names = list(spec.modalities)
        raise UserError(
            "data.dominant", repr(spec.dominant), f"one of {', '.join(names)}", f"let the source name {names[0]}"
        )
    if spec.task == "regression":
        if spec.classes or spec.target_range is None:
            found = f"classes {spec.classes}, target_range {spec.target_range}"
            remedy = "let the source's spec() say so, or name another task"
            raise UserError("data, task regression", found, "no classes, and the range of y", remedy)
        return
    if len(spec.classes) < 2 or len(set(spec.classes)) != len(spec.classes):
        remedy = "name every class once in data.classes, or set data.classes=null"
        raise UserError("data.classes", str(spec.classes), "two or more distinct class names", remedy)


def _check_shapes(spec: DataSpec, split: Split, table: Table) -> None:
    names = list(spec.modalities)
    for what, keys in (("x", table.x), ("present", table.present), ("transforms", table.transforms)):
        if set(keys) != set(names):
            raise UserError(
                f"data, {split} split, `{what}`",
                f"modalities {sorted(keys)}",
                f"exactly {names}",
                "let the source's tables() hold the modalities that its spec() names",
            )
    lengths = {f"x[{m}]": len(table.x[m]) for m in names} | {f"present[{m}]": len(table.present[m]) for m in names}
    for what, length in {"ids": len(table.ids), **lengths}.items():
        if length != len(table):
            where, remedy = (
                f"data, {split} split, {what}",
                "let the source's tables() give every array one row per label",
            )
            raise UserError(where, f"{length} rows", f"{len(table)}, as in y", remedy)


def _check_labels(spec: DataSpec, split: Split, table: Table) -> None:
    y = table.y
    if spec.task == "regression":
        bad = np.flatnonzero(~np.isfinite(y)) if y.dtype == np.float32 and y.ndim == 1 else np.zeros(1, int)
        if len(bad):
            where, found = f"data, {split} split, y", f"{y.dtype} of shape {y.shape}, first at fault: row {bad[0]}"
            remedy = "let the source's tables() convert y with astype(np.float32), and leave out rows without a value"
            raise UserError(where, found, "finite float32 of shape (n,)", remedy)
        return
    if y.dtype != np.int64 or y.ndim != 1:
        where, found = f"data, {split} split, y", f"{y.dtype} of shape {y.shape}"
        raise UserError(
            where, found, "int64 of shape (n,)", "let the source's tables() convert y with astype(np.int64)"
        )
    wrong = np.flatnonzero((y < 0) | (y >= len(spec.classes)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"data, {split} split, row {row} ({table.ids[row]})",
            f"label {y[row]} ({len(wrong)} label(s) outside the classes in all)",
            f"0 to {len(spec.classes) - 1}: {', '.join(spec.classes[:12])}",
            "relabel these samples, or name the class in the source's spec()",
        )


def _check_values(split: Split, table: Table) -> None:
    for modality, x in table.x.items():
        present = table.present[modality]
        if present.dtype != np.bool_ or present.ndim != 1:
            raise UserError(
                f"data, {split} split, present[{modality}]",
                f"{present.dtype} of shape {present.shape}",
                "bool of shape (n,)",
                "let the source's tables() convert it with astype(bool)",
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
                f"replace these values, or set present[{modality}] to False in their rows",
            )


def _check_presence(split: Split, table: Table) -> None:
    for modality, present in table.present.items():
        if split == "train" and not present.any():
            raise UserError(
                f"data, modality {modality}",
                "missing in every training sample",
                "present in at least one",
                f"mark the training rows that have {modality} as present, or leave {modality} out of the data",
            )
    alone = np.flatnonzero(~np.any(np.stack(list(table.present.values())), axis=0))
    if len(alone):
        raise UserError(
            f"data, {split} split",
            f"{len(alone)} sample(s) without any modality, first {', '.join(table.ids[i] for i in alone[:5])}",
            "at least one modality in every sample",
            "leave these samples out, or mark one of their modalities as present",
        )


def _check_lengths(spec: DataSpec, split: Split, table: Table) -> None:
    padded = {m: s.shape[0] for m, s in spec.modalities.items() if s.padded}
    if set(padded) != set(table.lengths):
        raise UserError(
            f"data, {split} split, `lengths`",
            f"modalities {sorted(table.lengths)}",
            f"exactly the padded ones of the spec: {sorted(padded)}",
            "let the source's spec() say padded=True for the modalities whose lengths its tables() hold",
        )
    for m, steps in padded.items():
        n, present = table.lengths[m], table.present[m]
        fits = n.dtype == np.int64 and n.shape == present.shape
        if not fits or bool(np.any(present & ((n < 1) | (n > steps)))):
            raise UserError(
                f"data, {split} split, lengths[{m}]",
                f"{n.dtype} of shape {n.shape}" + (f", from {n[present].min()} to {n[present].max()}" if fits else ""),
                f"int64 of shape {present.shape}, from 1 to {steps} where present",
                "let the source's tables() give the number of valid steps of every sample",
            )


def _check_disjoint(tables: Mapping[Split, Table]) -> None:
    owner: dict[str, Split] = {}
    for split in SPLITS:
        for i in tables[split].ids:
            if i in owner:
                raise UserError(
                    f"data, sample {i}",
                    f"in {owner[i]} and again in {split}" if owner[i] != split else f"twice in {split}",
                    "every sample once, in one split",
                    f"leave it out of {split}",
                )
            owner[i] = split


def _check_transforms(spec: DataSpec, split: Split, table: Table) -> None:
    """Send one present row through each transform and refuse another shape than the spec's, NaN and infinity."""
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
                "let the transform return that, or let the source's spec() say what it returns",
            )
        if not bool(out.isfinite().all()):
            raise UserError(
                f"data, {split} split, transform of {name}, sample {table.ids[rows[0]]}",
                "NaN or infinity",
                "finite numbers",
                "rm -r the prepared folder and start the same command again; what stays is the transform's own NaN",
            )


def _warnings(spec: DataSpec, tables: Mapping[Split, Table]) -> list[str]:
    lines = list(spec.warnings)
    for split, table in tables.items():
        lines += [f"{split}: {remark}" if len(tables) > 1 else remark for remark in table.remarks]
    lines += _shared(tables)
    seen = {split: set(table.y.tolist()) for split, table in tables.items()}
    ghosts = [c for i, c in enumerate(spec.classes) if len(tables) > 1 and not any(i in s for s in seen.values())]
    if ghosts:
        lines.append(
            f"no sample is of {_listed(ghosts)}: a class that is neither learned nor measured, and that chance and"
            " losses count all the same; number the labels from 0, or name the classes that there are"
        )
    for split, table in tables.items():
        absent = [c for i, c in enumerate(spec.classes) if i not in seen[split] and c not in ghosts]
        if absent:
            effect = "never learned" if split == "train" else "not measured"
            lines.append(f"{split} has no sample of {_listed(absent)}: {effect}")
        for modality, present in table.present.items():
            if not present.any():
                lines.append(f"{modality} is missing in all of {split}: its score there is undefined")
    return lines


def _listed(classes: list[str]) -> str:
    return ", ".join(classes[:8]) + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")


def _shared(tables: Mapping[Split, Table]) -> list[str]:
    """Return a line that counts the groups that are in more than one split, if there are any."""
    groups = [t.group for t in tables.values() if t.group is not None]
    if len(tables) < 2 or len(groups) < len(tables):
        return []
    split = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    word = next(iter(tables.values())).grouped_by
    shared = shared_groups(split, np.concatenate(groups))
    return [f"{shared} {word}(s) are in more than one split"] if shared else []
