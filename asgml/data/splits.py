"""Cutting splits: stratified by class, and by whole groups where samples belong together (speakers, videos)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asgml.data.counter_rng import shuffled
from asgml.data.spec import SPLITS
from callbacks.errors import UserError


@dataclass(frozen=True)
class Cut:
    """How the splits of one file are cut where it does not give them.

    Attributes:
        val: the share of val in what is cut.
        test: the share of test in what is cut.
        seed: the seed of the cut.
        where: the file that errors point at.
        what: what the parts have in equal shares, in one word.
    """

    val: float
    test: float
    seed: int
    where: str
    what: str = "class"

    def all(self, strata: np.ndarray, group: np.ndarray | None) -> tuple[np.ndarray, str]:
        """Return the split of each sample, (n,) of 0, 1, 2, and how it came about.

        Args:
            strata: what the splits have in equal shares, (n,) int64.
            group: the group of each sample, (n,) integers or strings; no group is in two splits.
        """
        split = cut(strata, [self.val, self.test], self.seed, self.where, group)
        return split, f"cut {self._how(group)}, seed {self.seed}: val {self.val:g}, test {self.test:g}"

    def lacking(self, split: np.ndarray, strata: np.ndarray, group: np.ndarray | None) -> tuple[np.ndarray, str]:
        """Return given splits, val or test cut from train where there is none, and how it came about.

        Args:
            split: the given split of each sample, (n,) of 0, 1, 2, train among them.
            strata: as in `all`.
            group: as in `all`.
        """
        split, told = split.copy(), "as given by `split`"
        for i, share in ((1, self.val), (2, self.test)):
            if np.any(split == i):
                continue
            train = np.flatnonzero(split == 0)
            part = cut(strata[train], [share], self.seed, self.where, None if group is None else group[train])
            split[train[part == 1]] = i
            told += f"; no {SPLITS[i]} there: cut {share:g} of train {self._how(group)}, seed {self.seed}"
        return split, told

    def _how(self, group: np.ndarray | None) -> str:
        return f"by {self.what}" if group is None else f"by {len(np.unique(group))} groups"


def shared_groups(split: np.ndarray, group: np.ndarray) -> int:
    """Return the number of groups, (n,) integers or strings, that are in more than one split, (n,) integers."""
    pairs = np.unique(np.stack([np.unique(group, return_inverse=True)[1].reshape(-1), split]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def cut(y: np.ndarray, shares: list[float], seed: int, where: str, group: np.ndarray | None = None) -> np.ndarray:
    """Return the part of each sample, (n,) int64 in 0..len(shares); part 0 is the rest.

    Without `group`, every class of at least len(shares) + 1 samples occurs in every part. With it, no group is in two
    parts, and groups go one by one, large before small, where the classes lack most.

    Args:
        y: the labels, (n,).
        shares: the share of the samples that part 1, 2, … gets, about.
        seed: the seed of the cut.
        where: the file or folder that errors point at.
        group: the group of each sample, (n,) integers or strings.

    Raises:
        UserError: impossible shares, or too few samples or groups for them.
    """
    if any(s <= 0 for s in shares) or sum(shares) >= 1:
        raise UserError(
            where,
            f"fractions {shares}",
            "positive numbers of sum < 1",
            "set data.val_fraction=0.15" + (" data.test_fraction=0.15" if len(shares) > 1 else ""),
        )
    part = _by_class(y, shares, seed) if group is None else _by_group(y, shares, seed, where, group)
    empty = [i for i in range(len(shares) + 1) if not np.any(part == i)]
    if empty:
        keys = ["data.val_fraction", "data.test_fraction"][: len(shares)]
        raise UserError(
            where,
            f"{len(y)} samples of {len(np.unique(y))} classes, too few to cut {len(shares) + 1} parts",
            "at least one sample in train, val and test",
            f"raise {' and '.join(keys)}, or give a column or array `split` (0 train, 1 val, 2 test)",
        )
    return part


def _by_class(y: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    part = np.zeros(len(y), dtype=np.int64)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        rows = rows[shuffled(len(rows), seed, f"class {label}")]
        if len(rows) <= len(shares):
            continue  # too rare to be in every part: training needs it first
        start = 0
        for i, share in enumerate(shares, start=1):
            left_for_others = len(shares) - i + 1
            count = min(max(1, round(share * len(rows))), len(rows) - start - left_for_others)
            part[rows[start : start + count]] = i
            start += count
    return part


def _by_group(y: np.ndarray, shares: list[float], seed: int, where: str, group: np.ndarray) -> np.ndarray:
    names, member = np.unique(group, return_inverse=True)
    member = member.reshape(-1)
    parts = len(shares) + 1
    if len(names) < parts:
        raise UserError(
            where,
            f"{len(names)} group(s): {', '.join(map(str, names))}",
            f"at least {parts} groups for {parts} group-disjoint parts",
            "add samples of other groups, or give a column or array `split` (0 train, 1 val, 2 test)",
        )
    counts = np.zeros((len(names), int(y.max()) + 1))
    np.add.at(counts, (member, y), 1)
    lack = np.outer([1 - sum(shares), *shares], counts.sum(0))  # (parts, classes) still to be filled
    # Sizes are compared in octaves, so that the seed has a say among groups of similar size.
    octave = np.floor(np.log2(counts.sum(1)))
    part_of = np.full(len(names), -1)
    order = shuffled(len(names), seed, "groups")
    for done, g in enumerate(order[np.argsort(-octave[order], kind="stable")]):
        # Counts c lower the squared error of a part with lack d by 2cd - c², and c² is the same for all parts.
        gain = lack @ counts[g]
        empty = [i for i in range(parts) if not np.any(part_of == i)]
        allowed = empty if len(names) - done <= len(empty) else range(parts)
        best = max(allowed, key=lambda i: gain[i])
        part_of[g] = best
        lack[best] -= counts[g]
    return part_of[member]
