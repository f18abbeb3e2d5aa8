"""New samples get what the run has fixed, and a network of tensors alone predicts what an evaluation does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from asgml_runs import compose
from media_trees import cremad
from torch import Tensor

from asgml.data import CremaD, DataSpec, Features, ModalitySpec
from asgml.data.avdigits import ShiftedImage
from asgml.data.new_samples import new_samples
from asgml.data.preprocessing import Preprocessing
from asgml.data.seen import seen_in
from asgml.export import export
from asgml.exported import ROWS, difference
from asgml.restore import Restored, build_finished
from asgml.train.network import Inputs, Network
from callbacks.errors import UserError


def fixed(source: Features | CremaD) -> Preprocessing:
    return Preprocessing.of(source.spec(), source.tables()["train"].transforms, seen_in(source.tables()))


def written(path: Path, **arrays: np.ndarray) -> Features:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return Features(str(path))


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8)).astype(np.uint8)


def test_what_a_run_has_fixed_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = fixed(written(tmp_path / "f.npz", x_a=images(40, 0), x_b=rng.standard_normal((40, 5)), y=np.arange(40) % 2))
    run.write(tmp_path / "p.safetensors")
    back = Preprocessing.read(tmp_path / "p.safetensors", "")
    assert back.spec == run.spec
    assert back.numbers.keys() == {"a", "b"}
    for m, numbers in run.numbers.items():
        for name, value in numbers.items():
            assert back.numbers[m][name].dtype == value.dtype
            np.testing.assert_array_equal(back.numbers[m][name], value)
    with pytest.raises(UserError, match="no such file"):
        Preprocessing.read(tmp_path / "other", "")


def test_statistics_are_the_runs(tmp_path: Path) -> None:
    train = written(tmp_path / "f.npz", x_a=images(40, 0), y=np.arange(40) % 2)
    table, told = new_samples(written(tmp_path / "g.npz", x_a=images(5, 1) // 4), fixed(train), labelled=False)
    with np.load(tmp_path / "f.npz") as file:
        rows = file["x_a"][[int(i) for i in train.tables()["train"].ids]] / 255
    wanted = (table.x["a"] / 255 - rows.mean((0, 2, 3))[:, None, None]) / rows.std((0, 2, 3))[:, None, None]
    found = table.transforms["a"](table.x["a"], np.zeros(5, np.uint64), False)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert told == []


def test_other_pixels_are_refused(tmp_path: Path) -> None:
    run = fixed(written(tmp_path / "f.npz", x_a=images(40, 0), y=np.arange(40) % 2))
    floats = written(tmp_path / "g.npz", x_a=images(5, 1) / 255)
    with pytest.raises(UserError, match=r"modality a\n.*not 8-bit images\n.*8-bit images, 0 to 255, as the run"):
        new_samples(floats, run, labelled=False)


def test_padding_may_be_shorter_than_in_training_and_not_longer(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 40
    steps = rng.integers(2, 7, n)
    train = written(tmp_path / "f.npz", x_a=rng.standard_normal((n, 6, 3)), length_a=steps, y=np.arange(n) % 2)
    run = fixed(train)
    shorter = written(tmp_path / "g.npz", x_a=rng.standard_normal((4, 5, 3)))
    table, _ = new_samples(shorter, run, labelled=False)
    assert table.x["a"].shape == (4, 6, 3)
    assert table.lengths["a"].tolist() == [5] * 4
    with pytest.raises(UserError, match="sequence of 7x3"):
        new_samples(written(tmp_path / "h.npz", x_a=rng.standard_normal((4, 7, 3))), run, labelled=False)


def test_a_regression_predicts_and_is_scored_in_its_own_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = fixed(written(tmp_path / "f.npz", x_a=rng.standard_normal((40, 5)), y=rng.standard_normal(40)))
    whole = written(tmp_path / "g.npz", x_a=rng.standard_normal((3, 5)), y=np.array([1, 2, 3]))
    table, _ = new_samples(whole, run, labelled=True)
    assert (table.y.dtype, table.y.tolist()) == (np.float32, [1.0, 2.0, 3.0])


def test_clips_in_a_folder_need_no_list(tmp_path: Path) -> None:
    """The folder of the run's data class, without its lists; sound or frames may be missing where it is said."""
    known = CremaD(str(cremad(tmp_path / "train")), audio="fbank", sample_rate=8000, seconds=0.5, mels=16, size=16)
    run = Preprocessing(known.spec(), {})
    new = tmp_path / "new"
    for place in sorted((tmp_path / "train" / "AudioWAV").iterdir())[:2]:
        frames = tmp_path / "train" / "Image-01-FPS" / place.stem
        shutil.copytree(frames, new / "Image-01-FPS" / place.stem.replace("1001", "mine"))
        (new / "AudioWAV").mkdir(exist_ok=True)
        shutil.copy(place, new / "AudioWAV" / place.name.replace("1001", "mine"))
    given = CremaD(**{**vars(known), "path": str(new), "corrupt": "missing"})
    shutil.rmtree(sorted((new / "Image-01-FPS").iterdir())[1])
    table, told = new_samples(given, run, labelled=False)
    assert table.ids == sorted(p.stem for p in (new / "AudioWAV").iterdir())
    assert (table.present["audio"].tolist(), table.present["visual"].tolist()) == ([True, True], [True, False])
    assert told == []
    with pytest.raises(UserError, match=r"train\.csv"):
        new_samples(given, run, labelled=True)
    with pytest.raises(UserError, match="no such folders"):
        new_samples(CremaD(**{**vars(known), "path": str(tmp_path / "empty")}), run, labelled=False)


def test_shifted_images_keep_their_shift() -> None:
    one = ShiftedImage(3.0, 2.0, (1, 1))
    again = ShiftedImage(0.0, 1.0, (1, 1)).refitted(one.fitted(), "data")
    raw = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    for train in (False, True):
        keys = np.array([1, 2], np.uint64)
        np.testing.assert_array_equal(one(raw, keys, train), again(raw, keys, train))


@pytest.mark.parametrize(
    "choices",
    [
        ["method=mla", "fusion=sum"],
        ["method=ume", "fusion=transformer"],
        ["method=aug", "fusion=film"],
        ["method=greedy", "fusion=cross_attention"],
        ["method=unimodal", "methods.unimodal.modality=audio", "fusion=gated"],
    ],
    ids=lambda c: c[0],
)
def test_a_network_of_tensors_predicts_as_an_evaluation_does(choices: list[str], tmp_path: Path) -> None:
    """With rows that lack a modality, whatever fusion and method make of them; also one that was written and read."""
    modalities = {
        "audio": ModalitySpec("audio", "sequence", (6, 3), padded=True),
        "visual": ModalitySpec("visual", "image", (1, 8, 8)),
    }
    spec = DataSpec(modalities, ["a", "b", "c"])
    cfg = compose(["experiment=features", "data.path=f.npz", "model.encoder.dim=8", *choices])
    run = Restored(Path(), cfg, {}, Preprocessing(spec, {}), build_finished(cfg, spec).eval(), "best")

    def answers(inputs: Inputs) -> dict[str, Tensor]:
        with torch.no_grad():
            return Network(run.module)(*inputs)

    assert max(ROWS) > 4, "every modality is absent somewhere"
    assert difference(run, answers) < 1e-6
    assert export(run, tmp_path / "network", "none") == {"weights.safetensors": 0.0}
