"""AV-digits: file errors on tiny folders, known facts on the real files."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asgml.data.avdigits import FRAMES, HOP, MELS, RATE, AVDigits, ShiftedImage, load_images, load_recordings
from asgml.data.counter_rng import sample_keys
from asgml.data.dataset import MultimodalDataset
from asgml.data.spec import SPLITS
from asgml.data.validate import validate
from callbacks.errors import UserError

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SPEAKERS = ("ann", "bob", "cem")


@pytest.fixture(scope="session")
def real() -> Path:
    if not (DATA / "fsdd").is_dir() or not (DATA / "mnist").is_dir():
        pytest.skip(f"no fsdd/ and mnist/ under {DATA} (set SUITE_DATA)")
    return DATA


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Two takes of each digit by three speakers, 360 images."""
    rng = np.random.default_rng(0)
    (tmp_path / "fsdd").mkdir()
    (tmp_path / "mnist").mkdir()
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in (0, 7):
                wave = 0.3 * rng.normal(size=rng.integers(1500, 8000))
                soundfile.write(tmp_path / "fsdd" / f"{digit}_{speaker}_{take}.wav", wave, RATE)
    images = rng.integers(0, 256, (360, 28, 28)).astype(np.uint8)
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx(np.arange(360).astype(np.uint8) % 10))
    )
    load_recordings.cache_clear()
    return tmp_path


def tables(root: Path, **options):
    options = {"val_speakers": ["bob"], "test_speakers": ["cem"], **options}
    source = AVDigits(str(root), **options)
    found = source.tables()
    validate(source.spec(), found)
    return source.spec(), found


def test_pairs_agree_in_label_and_splits_share_nothing(tiny):
    spec, found = tables(tiny, copies=2)
    assert [len(found[s]) for s in SPLITS] == [40, 20, 20]
    _, labels = load_images(tiny)
    heard, seen = {}, {}
    for s in SPLITS:
        pairs = [i.split("+") for i in found[s].ids]
        assert [int(a.split("_")[0]) for a, _ in pairs] == found[s].y.tolist()
        assert [labels[int(v)] for _, v in pairs] == found[s].y.tolist()
        heard[s], seen[s] = {a.split("_")[1] for a, _ in pairs}, {v for _, v in pairs}
    assert heard == {"train": {"ann"}, "val": {"bob"}, "test": {"cem"}}
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    assert len(set(found["train"].ids)) == 40
    assert spec.modalities["audio"].shape == (1, MELS, FRAMES)


def test_the_same_pairs_every_time_and_others_for_another_seed(tiny):
    first, again, other = (tables(tiny, pairing_seed=s)[1]["train"].ids for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_official_split_is_by_take(tiny):
    for take in range(5, 9):  # make 5-9 val and something above train
        wave = soundfile.read(tiny / "fsdd" / "0_ann_0.wav")[0]
        for digit in range(10):
            soundfile.write(tiny / "fsdd" / f"{digit}_ann_{take + 5}.wav", wave, RATE)
    _, found = tables(tiny, split="official")
    takes = {s: {int(i.split("+")[0].split("_")[2]) for i in found[s].ids} for s in SPLITS}
    assert takes == {"train": {10, 11, 12, 13}, "val": {7}, "test": {0}}


def test_augmentation_moves_content_by_at_most_its_reach():
    x = np.zeros((200, 9, 9), np.float32)
    x[:, 4, 4] = 1
    keys = sample_keys(0, np.zeros(200), np.arange(200))
    shift = ShiftedImage(0.0, 1.0, (2, 1))
    out = shift(x, keys, True)
    assert torch.equal(out.sum((1, 2, 3)), torch.ones(200))
    where = {tuple(p) for p in torch.nonzero(out[:, 0])[:, 1:].tolist()}
    assert where == {(r, c) for r in range(2, 7) for c in range(3, 6)}
    assert torch.equal(shift(x, keys, False)[:, 0], torch.from_numpy(x))
    assert torch.equal(shift(x[50:60], keys[50:60], True), out[50:60])


def corrupt_truncated_wav(root):
    path = root / "fsdd" / "3_bob_0.wav"
    path.write_bytes(path.read_bytes()[:1000])


def corrupt_empty_wav(root):
    (root / "fsdd" / "3_bob_0.wav").write_bytes(b"")


def corrupt_rate(root):
    soundfile.write(root / "fsdd" / "3_bob_0.wav", np.zeros(100), 16000)


def corrupt_name(root):
    (root / "fsdd" / "3_bob_0.wav").rename(root / "fsdd" / "three.wav")


def corrupt_no_wavs(root):
    for path in (root / "fsdd").iterdir():
        path.unlink()


def corrupt_no_images(root):
    (root / "mnist" / "t10k-images-idx3-ubyte").unlink()


def corrupt_magic(root):
    path = root / "mnist" / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\x00\x00\x0d" + path.read_bytes()[3:])


def corrupt_sizes(root):
    path = root / "mnist" / "t10k-images-idx3-ubyte"
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 12 + data[16:])


def corrupt_short_idx(root):
    (root / "mnist" / "t10k-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03\x00")


def corrupt_gzip(root):
    path = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:30])


def corrupt_label_count(root):
    path = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(359, np.uint8))))


@pytest.mark.parametrize(
    ("corrupt", "told"),
    [
        (corrupt_truncated_wav, ["3_bob_0.wav", "1000 bytes"]),
        (corrupt_empty_wav, ["3_bob_0.wav", "unreadable"]),
        (corrupt_rate, ["3_bob_0.wav", "16000 Hz"]),
        (corrupt_name, ["three.wav", "<digit>_<speaker>_<n>.wav"]),
        (corrupt_no_wavs, ["fsdd", "no .wav file"]),
        (corrupt_no_images, ["t10k-images-idx3-ubyte", "no such file"]),
        (corrupt_magic, ["t10k-images-idx3-ubyte", "00 00 0d 03"]),
        (corrupt_sizes, ["t10k-images-idx3-ubyte", "the header says"]),
        (corrupt_short_idx, ["t10k-images-idx3-ubyte", "first bytes"]),
        (corrupt_gzip, ["t10k-labels-idx1-ubyte.gz", "damaged"]),
        (corrupt_label_count, ["labels (359,)"]),
    ],
)
def test_damaged_files_are_named(tiny, corrupt, told):
    corrupt(tiny)
    with pytest.raises(UserError) as error:
        tables(tiny)
    for fragment in told:
        assert fragment in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"val_speakers": ["zoe"]}, "unknown speaker 'zoe'"),
        ({"val_speakers": []}, "an empty list"),
        ({"val_speakers": ["cem"]}, "cem in both"),
        ({"val_speakers": ["ann", "bob"]}, "every speaker in val or test"),
        ({"copies": 0}, "1 or more"),
        ({"copies": 99}, "99 pairing(s) per recording"),
        ({"split": "by_take"}, "speaker_disjoint or official"),
    ],
)
def test_wrong_options_are_told(tiny, options, told):
    with pytest.raises(UserError) as error:
        tables(tiny, **options)
    assert told in str(error.value)


def test_absent_data_is_told_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="free-spoken-digit-dataset"):
        tables(tmp_path / "nowhere")


# -- the real files --------------------------------------------------------------------------------


def test_real_files_are_as_published(real):
    recordings = load_recordings(real)
    assert recordings.mel.shape == (3000, MELS, FRAMES)
    cells = np.unique(np.stack([recordings.digit, np.unique(recordings.speaker, return_inverse=True)[1]]), axis=1)
    assert cells.shape[1] == 60
    assert all(np.sum(recordings.digit == d) == 300 for d in range(10))
    assert recordings.mel.min() == 0
    assert recordings.mel.max() == 1
    images, labels = load_images(real)
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert HOP * FRAMES / RATE == 0.8


def logistic_regression(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Test accuracy of multinomial logistic regression, weight penalty 1e-3, 25 L-BFGS iterations."""
    a, b = (torch.from_numpy(v.reshape(len(v), -1).astype(np.float32)) for v in (x, x_test))
    weight, target = torch.zeros(a.shape[1] + 1, 10, requires_grad=True), torch.from_numpy(y)
    optimizer = torch.optim.LBFGS([weight], max_iter=25, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(a @ weight[:-1] + weight[-1], target)
        loss = loss + 1e-3 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(((b @ weight[:-1] + weight[-1]).argmax(1).numpy() == y_test).mean())


def test_real_labels_belong_to_their_files(real):
    """Logistic regression finds the digits as well as published: audio 0.937 (official split), images 0.912."""
    source = AVDigits(str(real), split="official")
    found = source.tables()
    assert [len(found[s]) for s in SPLITS] == [2400, 300, 300]
    pooled = {s: found[s].x["audio"].reshape(-1, MELS, 8, 8).mean(3) - 0.25 for s in SPLITS}
    audio = logistic_regression(pooled["train"], found["train"].y, pooled["test"], found["test"].y)
    pixels = {s: found[s].x["visual"][:, ::2, ::2] / 255.0 for s in SPLITS}
    visual = logistic_regression(pixels["train"], found["train"].y, pixels["test"], found["test"].y)
    assert 0.88 < audio < 0.98
    assert 0.84 < visual < 0.95


def test_real_speakers_are_disjoint_by_default(real):
    source = AVDigits(str(real))
    found = source.tables()
    validate(source.spec(), found)
    assert [len(found[s]) for s in SPLITS] == [2000, 500, 500]
    speakers = {s: {i.split("_")[1] for i in found[s].ids} for s in SPLITS}
    assert speakers == {"train": {"george", "jackson", "lucas", "nicolas"}, "val": {"theo"}, "test": {"yweweler"}}
    batch = MultimodalDataset(found["train"], 0, train=True).__getitems__([(i, 0) for i in range(256)])
    for x in batch["x"].values():
        assert abs(float(x.mean())) < 0.3
        assert 0.7 < float(x.std()) < 1.3
