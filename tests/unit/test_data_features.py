"""Feature sets: what the file may hold, how it is split, and how every mistake is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asgml.data.dataset import MultimodalDataset
from asgml.data.features import Features
from asgml.data.spec import SPLITS
from asgml.data.splits import cut
from asgml.data.validate import validate
from callbacks.errors import UserError

N = 60


def arrays(**more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    base = {
        "x_audio": rng.normal(3, 2, size=(N, 6)),
        "x_text": rng.normal(size=(N, 7, 4)).astype(np.float32),
        "y": np.arange(N) % 3,
    }
    return {k: v for k, v in {**base, **more}.items() if v is not None}


def save(tmp_path, **more) -> str:
    path = tmp_path / "set.npz"
    np.savez(path, **arrays(**more))
    return str(path)


def load(path: str, **options):
    source = Features(path, **options)
    spec, tables = source.spec(), source.tables()
    validate(spec, tables)
    return spec, tables


def test_reads_what_was_saved(tmp_path):
    split = np.repeat([0, 1, 2], [40, 10, 10])
    spec, tables = load(save(tmp_path, split=split), standardize=False, classes=["x", "y", "z"])
    assert list(spec.modalities) == ["audio", "text"]
    assert spec.classes == ["x", "y", "z"]
    assert [len(tables[s]) for s in SPLITS] == [40, 10, 10]
    assert tables["test"].ids == [str(i) for i in range(50, 60)]
    assert tables["test"].y.tolist() == arrays()["y"][50:].tolist()
    batch = MultimodalDataset(tables["test"], 0).__getitems__([(3, 0), (1, 0)])
    assert np.allclose(batch["x"]["audio"].numpy(), arrays()["x_audio"][[53, 51]].astype(np.float32))
    assert batch["x"]["text"].dtype == torch.float32


def test_standardised_by_present_training_rows_only(tmp_path):
    split = np.repeat([0, 1, 2], [40, 10, 10])
    x = arrays()["x_audio"]
    x[40:] += 100  # val and test must not enter
    x[:5] = np.nan  # nor may rows that are not present
    present = np.arange(N) >= 5
    _, tables = load(save(tmp_path, split=split, x_audio=x, present_audio=present))
    out = MultimodalDataset(tables["train"], 0).__getitems__([(i, 0) for i in range(40)])
    audio = out["x"]["audio"].double()
    assert audio.shape == (35, 6)
    assert torch.allclose(audio.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(audio.var(0, correction=0), torch.ones(6, dtype=torch.float64), atol=1e-4)
    text = out["x"]["text"].double()
    assert torch.allclose(text.mean((0, 1)), torch.zeros(4, dtype=torch.float64), atol=1e-5)  # per feature over time
    assert MultimodalDataset(tables["val"], 0)[(0, 0)]["x"]["audio"].mean() > 10


def test_constant_features_become_zero_not_nan(tmp_path):
    x = arrays()["x_audio"].astype(np.float32)
    x[:, 2] = 0.1
    spec, tables = load(save(tmp_path, x_audio=x))
    assert spec.notes["constant features/audio"] == 1
    assert MultimodalDataset(tables["train"], 0)[(0, 0)]["x"]["audio"][0, 2].abs() < 1e-6


@pytest.mark.parametrize(
    ("sample", "options", "kind", "shape"),
    [
        ((), {}, "vector", (1,)),
        ((5,), {}, "vector", (5,)),
        ((9, 5), {}, "sequence", (9, 5)),
        ((1, 8, 8), {}, "image", (1, 8, 8)),
        ((3, 8, 8), {}, "image", (3, 8, 8)),
        ((4, 8, 8), {}, "image", (4, 8, 8)),
        ((5, 8, 8), {}, "frames", (5, 1, 8, 8)),
        ((2, 3, 8, 8), {}, "frames", (2, 3, 8, 8)),
        ((9, 5), {"kinds": {"audio": "image"}}, "image", (1, 9, 5)),
        ((3, 8, 8), {"kinds": {"audio": "frames"}}, "frames", (3, 1, 8, 8)),
        ((8, 8, 8), {"kinds": {"audio": "image"}}, "image", (8, 8, 8)),
        ((50,), {"kinds": {"audio": "sequence"}}, "sequence", (50, 1)),
    ],
)
def test_the_kind_follows_the_rank(tmp_path, sample, options, kind, shape):
    path = save(tmp_path, x_audio=np.random.default_rng(0).normal(size=(N, *sample)))
    spec, tables = load(path, **options)
    assert (spec.modalities["audio"].kind, spec.modalities["audio"].shape) == (kind, shape)
    assert kind in spec.notes["kind/audio"]
    assert MultimodalDataset(tables["train"], 0)[(0, 0)]["x"]["audio"].shape == (1, *shape)


def test_8_bit_images_are_scaled(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, size=(N, 3, 4, 4)).astype(np.uint8)
    _, tables = load(save(tmp_path, x_audio=x), standardize=False)
    out = MultimodalDataset(tables["train"], 0)[(0, 0)]["x"]["audio"]
    assert torch.allclose(out[0], torch.from_numpy(x[int(tables["train"].ids[0])] / 255).float())
    _, tables = load(save(tmp_path, x_audio=x))
    out = MultimodalDataset(tables["train"], 0).__getitems__([(i, 0) for i in range(len(tables["train"]))])["x"]
    assert torch.allclose(out["audio"].mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(out["audio"].std((0, 2, 3)), torch.ones(3), atol=1e-2)


def test_tokens_stay_integers(tmp_path):
    tokens = np.where(np.arange(8) < np.arange(N)[:, None] % 8 + 1, 5, -1)
    spec, tables = load(save(tmp_path, x_text=tokens), kinds={"text": "tokens"})
    assert spec.modalities["text"].kind == "tokens"
    out = MultimodalDataset(tables["train"], 0)[(0, 0)]["x"]["text"]
    assert out.dtype == torch.int64
    assert out[0].tolist() == tokens[int(tables["train"].ids[0])].tolist()


@pytest.mark.parametrize("modalities", [1, 7])
def test_any_number_of_modalities(tmp_path, modalities):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.npz"
    x = {f"x_m{i}": rng.normal(size=(N, i + 2)) for i in range(modalities)}
    np.savez(path, y=np.arange(N) % 2, **x)
    spec, tables = load(str(path))
    assert list(spec.modalities) == [f"m{i}" for i in range(modalities)]
    batch = MultimodalDataset(tables["train"], 0).__getitems__([(0, 0), (1, 0)])
    assert [batch["x"][m].shape for m in spec.modalities] == [(2, i + 2) for i in range(modalities)]


# -- splits ----------------------------------------------------------------------------------------


def test_a_missing_split_is_cut_by_class_and_reported(tmp_path):
    spec, tables = load(save(tmp_path))
    for s in SPLITS:
        assert np.bincount(tables[s].y).tolist() == {"train": [14] * 3, "val": [3] * 3, "test": [3] * 3}[s]
    assert sorted(int(i) for s in SPLITS for i in tables[s].ids) == list(range(N))
    assert "cut by class" in spec.notes["split"]
    _, again = load(save(tmp_path))
    _, other = load(save(tmp_path), split_seed=1)
    assert again["test"].ids == tables["test"].ids
    assert other["test"].ids != tables["test"].ids


def test_cut_splits_share_no_group(tmp_path):
    rng = np.random.default_rng(0)
    group = np.array([f"speaker {g}" for g in rng.integers(0, 12, N)])
    for seed in range(5):
        spec, tables = load(save(tmp_path, group=group), split_seed=seed)
        seen = [set(group[[int(i) for i in tables[s].ids]]) for s in SPLITS]
        assert len(set.union(*seen)) == sum(map(len, seen)) == 12
        assert "12 groups" in spec.notes["split"]


def test_group_cuts_keep_their_shares_and_classes():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 90, 3000)
    y = rng.integers(0, 6, 3000)
    part = cut(y, [0.15, 0.15], 0, "f", group)
    assert np.allclose(np.bincount(part) / 3000, [0.7, 0.15, 0.15], atol=0.02)
    for p in range(3):
        assert np.allclose(np.bincount(y[part == p]) / (part == p).sum(), np.bincount(y) / 3000, atol=0.05)
    assert set(cut(np.array([0, 1, 0]), [0.1, 0.1], 0, "f", np.array([5, 6, 7]))) == {0, 1, 2}


def test_a_class_of_three_is_in_every_cut_part():
    y = np.array([0] * 100 + [1] * 3)
    part = cut(y, [0.1, 0.1], 0, "f")
    assert sorted(part[y == 1]) == [0, 1, 2]
    assert np.bincount(part[y == 0]).tolist() == [80, 10, 10]


def test_val_is_cut_from_train_when_only_train_and_test_are_given(tmp_path):
    split = np.repeat([0, 2], [45, 15])
    group = np.arange(N) // 3
    spec, tables = load(save(tmp_path, split=split, group=group))
    assert [int(i) for i in tables["test"].ids] == list(range(45, 60))
    assert 0 < len(tables["val"]) < 12
    train, val = ({group[int(i)] for i in tables[s].ids} for s in ("train", "val"))
    assert not train & val
    assert "no val there: cut 0.15 of train" in spec.notes["split"]


def test_groups_across_given_splits_are_reported(tmp_path):
    split = np.repeat([0, 1, 2], [40, 10, 10])
    spec, _ = load(save(tmp_path, split=split, group=np.arange(N) % 2))
    assert spec.notes["groups in more than one split"] == 2


# -- mistakes --------------------------------------------------------------------------------------


def _with(array: np.ndarray, where, value) -> np.ndarray:
    array = array.astype(np.float64) if isinstance(value, float) else array.copy()
    array[where] = value
    return array


MISTAKES = {
    "unknown array": ({"labels": np.zeros(N)}, {}, ["array labels", "not an array of the feature format"]),
    "unknown array, near": ({"splits": np.zeros(N, int)}, {}, ["did you mean split"]),
    "presence of nobody": ({"present_video": np.ones(N, bool)}, {}, ["present_video"]),
    "no modality": ({"x_audio": None, "x_text": None}, {}, ["x_<modality>"]),
    "no labels": ({"y": None}, {}, ["array y", "absent"]),
    "wrong length": ({"x_audio": np.zeros((N - 1, 3))}, {}, ["array x_audio", "59", "60 rows"]),
    "wrong split length": ({"split": np.zeros(N + 2, int)}, {}, ["array split", "62"]),
    "scalar": ({"x_audio": np.float32(1)}, {}, ["array x_audio", "shape ()"]),
    "empty dimension": ({"x_audio": np.zeros((N, 0))}, {}, ["array x_audio", "(60, 0)"]),
    "two-dimensional labels": ({"y": np.zeros((N, 2), int)}, {}, ["array y", "(60, 2)"]),
    "whole floats": ({"y": arrays()["y"] * 1.0}, {}, ["array y", "float64", "data.task=regression"]),
    "strings as labels": ({"y": np.array(["a", "b"] * (N // 2))}, {}, ["array y", "<U1", "astype(int)"]),
    "negative label": ({"y": _with(arrays()["y"], 7, -3)}, {}, ["array y", "-3 in row 7"]),
    "label outside the classes": ({}, {"classes": ["a", "b"]}, ["array y", "label 2 in row 2", "20 label(s)"]),
    "wild label": ({"y": _with(arrays()["y"], 4, 10**6)}, {}, ["array y", "1000000 in row 4"]),
    "one class": ({"y": np.ones(N, int)}, {}, ["array y", "one class only (1)"]),
    "NaN": (
        {"x_audio": _with(_with(arrays()["x_audio"], (11, 4), np.nan), (12, 0), np.inf)},
        {},
        ["array x_audio", "nan in row 11, column 4", "2 value(s)", "present_audio"],
    ),
    "NaN in a sequence": (
        {"x_text": _with(arrays()["x_text"], (3, 2, 1), np.nan)},
        {},
        ["array x_text", "row 3, column (2, 1)"],
    ),
    "row of NaN is not missing": (
        {"x_audio": _with(arrays()["x_audio"], 20, np.nan)},
        {},
        ["row 20, column 0", "6 value(s)"],
    ),
    "beyond float32": (
        {"x_audio": _with(arrays()["x_audio"], (9, 1), 1e300)},
        {},
        ["beyond float32 in row 9, column 1"],
    ),
    "modality missing everywhere": (
        {"present_audio": np.zeros(N, bool)},
        {},
        ["array present_audio", "every row"],
    ),
    "modality missing in train": (
        {"split": np.repeat([0, 1, 2], 20), "present_audio": np.arange(N) >= 20},
        {},
        ["modality audio", "missing in every training sample"],
    ),
    "sample without any modality": (
        {"present_audio": np.arange(N) != 33, "present_text": np.arange(N) != 33},
        {},
        ["1 sample(s) without any modality", "33"],
    ),
    "presence not bool": ({"present_audio": np.ones(N)}, {}, ["array present_audio", "float64"]),
    "strings as features": ({"x_audio": np.array(["a"] * N)}, {}, ["array x_audio", "<U1"]),
    "objects": ({"x_audio": np.array([[1], [1, 2]] * (N // 2), dtype=object)}, {}, ["array x_audio", "pickled"]),
    "too many dimensions": ({"x_audio": np.zeros((N, 1, 1, 1, 1, 2))}, {}, ["array x_audio", "5 dimensions"]),
    "split value": ({"split": _with(np.arange(N) % 3, 8, 5)}, {}, ["array split", "5 in row 8"]),
    "split of floats": ({"split": np.zeros(N)}, {}, ["array split", "float64"]),
    "no training sample": ({"split": np.repeat([1, 2], 30)}, {}, ["array split", "no sample of train"]),
    "train only": ({"split": np.zeros(N, int)}, {}, ["array split", "no sample of val and test"]),
    "too few groups": ({"group": np.arange(N) % 2}, {}, ["2 group(s)", "at least 3 groups"]),
    "group of floats": ({"group": np.zeros(N)}, {}, ["array group", "float64"]),
    "fractions": ({}, {"val_fraction": 0.6, "test_fraction": 0.5}, ["[0.6, 0.5]", "sum < 1"]),
    "kind for nobody": ({}, {"kinds": {"video": "image"}}, ["data.kinds", "'video'"]),
    "unknown kind": ({}, {"kinds": {"audio": "picture"}}, ["data.kinds.audio", "'picture'"]),
    "kind of another rank": ({}, {"kinds": {"audio": "frames"}}, ["array x_audio", "frames"]),
    "tokens of floats": ({}, {"kinds": {"audio": "tokens"}}, ["array x_audio", "integers for kind tokens"]),
    "padding inside": (
        {"x_audio": np.tile([3, -1, 3], (N, 1))},
        {"kinds": {"audio": "tokens"}},
        ["x_audio", "padding before a token in row 0, column 1"],
    ),
    "token below -1": (
        {"x_audio": np.tile([3, -2, 3], (N, 1))},
        {"kinds": {"audio": "tokens"}},
        ["x_audio", "-2 in row 0, column 1"],
    ),
    "dominant": ({}, {"dominant": "video"}, ["data.dominant", "'video'"]),
    "reserved name": ({"x_fusion": np.zeros((N, 2))}, {}, ["'fusion'", "reserved"]),
    "duplicate class names": ({}, {"classes": ["a", "a", "b"]}, ["data.classes"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_the_place_and_the_remedy(tmp_path, case):
    more, options, told = MISTAKES[case]
    with pytest.raises(UserError) as error:
        load(save(tmp_path, **more), **options)
    for fragment in told:
        assert fragment in str(error.value), str(error.value)
    assert error.value.remedy


def test_files_that_are_no_feature_sets(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "absent.npz"))
    with pytest.raises(UserError, match="a folder"):
        load(str(tmp_path))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="unreadable"):
        load(str(tmp_path / "one.npy"))
    data = (tmp_path / "set.npz").read_bytes() if save(tmp_path) else b""
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="unreadable"):
        load(str(tmp_path / "cut.npz"))
    at = data.index(b"x_audio.npy") + 400
    (tmp_path / "flipped.npz").write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    with pytest.raises(UserError, match=r"unreadable.*x_audio"):
        load(str(tmp_path / "flipped.npz"))
