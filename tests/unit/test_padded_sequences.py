"""Sequences of different lengths: padding changes no number, and what cannot take it is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asgml.data.dataset import MultimodalDataset
from asgml.data.features import Features
from asgml.data.spec import DataSpec, ModalitySpec, subset
from asgml.data.validate import validate
from asgml.model.encoders.small import TemporalConv, auto_encoder
from asgml.model.encoders.valid_steps import masked_norm, valid_mask
from asgml.model.fusion.concat import Concat
from asgml.model.net import MultimodalNet
from asgml.train.forward import Forward
from asgml.train.task import task_of
from callbacks.errors import UserError

N, T, F = 60, 9, 4
LENGTHS = np.arange(N) % T + 1


def arrays(**more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(N, T, F)).astype(np.float32)
    base = {"x_text": x, "x_audio": rng.normal(size=(N, 3)), "y": np.arange(N) % 3, "length_text": LENGTHS}
    return {k: v for k, v in {**base, **more}.items() if v is not None}


def load(tmp_path, **more):
    np.savez(tmp_path / "set.npz", **arrays(**more))
    source = Features(str(tmp_path / "set.npz"))
    spec, tables = source.spec(), source.tables()
    validate(spec, tables)
    return spec, tables


def whole(table):
    return MultimodalDataset(table, 0).__getitems__([(i, 0) for i in range(len(table))])


# -- data ------------------------------------------------------------------------------------------


def test_batches_hold_the_lengths_of_their_present_rows_and_zeros_behind_them(tmp_path):
    present = np.arange(N) % 5 > 0
    spec, tables = load(tmp_path, present_text=present)
    assert [m for m, modality in spec.modalities.items() if modality.padded] == ["text"]
    batch, rows = whole(tables["train"]), np.array(tables["train"].ids, int)
    assert list(batch["lengths"]) == ["text"]
    assert batch["lengths"]["text"].tolist() == LENGTHS[rows[present[rows]]].tolist()
    behind = torch.arange(T) >= batch["lengths"]["text"][:, None]
    assert batch["x"]["text"][behind].tolist() == [[0.0] * F] * int(behind.sum())
    nobody = MultimodalDataset(tables["train"], 0)
    gone = [(int(i), 0) for i in np.flatnonzero(~tables["train"].present["text"])]
    assert nobody.__getitems__(gone)["lengths"]["text"].shape == (0,)
    few = subset(tables["train"], np.array([3, 1]))
    assert few.lengths["text"].tolist() == tables["train"].lengths["text"][[3, 1]].tolist()


def test_statistics_are_those_of_valid_steps(tmp_path):
    _, tables = load(tmp_path)
    batch = whole(tables["train"])
    valid = torch.arange(T) < batch["lengths"]["text"][:, None]
    steps = batch["x"]["text"][valid].double()
    assert torch.allclose(steps.mean(0), torch.zeros(F, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(steps.var(0, correction=0), torch.ones(F, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("padding", [0.0, 1e6, np.nan])
def test_what_the_padding_holds_and_where_it_is_changes_no_number(tmp_path, padding):
    """Padding behind by `length_`, before by `mask_`, and of any content: the same batches to the last bit."""
    reference, x = whole(load(tmp_path)[1]["train"]), arrays()["x_text"]
    behind, before, mask = x.copy(), np.full_like(x, padding), np.zeros((N, T), bool)
    for i, n in enumerate(LENGTHS):
        behind[i, n:] = padding
        before[i, T - n :] = x[i, :n]
        mask[i, T - n :] = True
    for more in ({"x_text": behind}, {"x_text": before, "mask_text": mask, "length_text": None}):
        batch = whole(load(tmp_path, **more)[1]["train"])
        assert torch.equal(batch["x"]["text"], reference["x"]["text"])
        assert torch.equal(batch["lengths"]["text"], reference["lengths"]["text"])


def _holed() -> np.ndarray:
    mask = np.ones((N, T), bool)
    mask[7, 3] = False
    return mask


MISTAKES = {
    "both": ({"mask_text": np.ones((N, T), bool)}, ["mask_text and length_text", "one of the two"]),
    "gap": ({"mask_text": _holed(), "length_text": None}, ["array mask_text", "a gap in row 7, at step 3"]),
    "mask of numbers": ({"mask_text": np.ones((N, T)), "length_text": None}, ["float64", "astype(bool)"]),
    "mask of another length": ({"mask_text": np.ones((N, 3), bool), "length_text": None}, ["(60, 3)", "(60, 9)"]),
    "too long": ({"length_text": LENGTHS + 1}, ["array length_text", "10 in row 8", "1 to 9"]),
    "negative": ({"length_text": LENGTHS - 3}, ["-2 in row 0"]),
    "nothing valid": ({"length_text": LENGTHS - 1}, ["no valid step in row 0", "present_text with False"]),
    "floats": ({"length_text": LENGTHS * 1.0}, ["float64", "astype(int)"]),
    "of a vector": ({"length_audio": np.ones(N, int)}, ["array length_audio", "kind vector"]),
    "of nobody": ({"length_video": LENGTHS}, ["length_video", "did you mean length_audio"]),
    "of a single number": ({"x_audio": np.zeros(N), "length_audio": LENGTHS}, ["shape (60,)"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_the_place_and_the_remedy(tmp_path, case):
    more, told = MISTAKES[case]
    with pytest.raises(UserError) as error:
        load(tmp_path, **more)
    for fragment in told:
        assert fragment in str(error.value), str(error.value)
    assert error.value.remedy


# -- encoder ---------------------------------------------------------------------------------------


def padded(steps: int, content: float, lengths: Tensor, seed: int = 0) -> Tensor:
    """Rows whose valid steps depend on `seed` alone, in `steps` steps with `content` behind the valid ones."""
    rows = torch.randn(len(lengths), 13, F, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.full((len(lengths), steps, F), content, dtype=torch.float64)
    for i, n in enumerate(lengths.tolist()):
        x[i, :n] = rows[i, :n]
    return x


def encoder(steps: int = 13, norm: str = "group") -> TemporalConv:
    torch.manual_seed(0)
    return TemporalConv((steps, F), dim=5, channels=[6, 8], norm=norm).double()  # type: ignore[arg-type]


MIXED = torch.tensor([1, 2, 3, 5, 8, 11, 7, 4])


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_feature_is_that_of_the_sequence_without_padding(norm):
    model = encoder(norm=norm).eval() if norm == "batch" else encoder()
    if norm == "batch":  # statistics other than 0 and 1
        for layer in model.time.layers:
            if isinstance(layer, nn.BatchNorm1d):
                nn.init.normal_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
    together = model(padded(13, 0.0, MIXED), MIXED)
    assert torch.allclose(model(padded(13, 1e3, MIXED), MIXED), together, rtol=0, atol=1e-12)
    assert torch.allclose(model(padded(11, -7.0, MIXED), MIXED), together, rtol=0, atol=1e-12)
    assert not model(padded(13, float("nan"), MIXED), MIXED).isnan().any()
    for i, n in enumerate(MIXED.tolist()):
        alone = padded(13, 0.0, MIXED)[i : i + 1, :n]
        assert torch.allclose(model(alone), together[i : i + 1], rtol=0, atol=1e-12)
    assert not torch.allclose(model(padded(13, 0.0, MIXED)), together, atol=1e-3), "or the lengths do nothing"


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_without_padding_it_is_the_encoder_without_lengths(norm, training):
    a, b = encoder(norm=norm).train(training), encoder(norm=norm).train(training)
    full = torch.full((6,), 13)
    x = padded(13, 0.0, full)
    out, expected = a(x, full), b(x)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-10), name
    for (name, p), q in zip(a.named_buffers(), b.buffers(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12), name


def test_batch_statistics_in_training_are_those_of_all_valid_steps():
    """Against torch's own BatchNorm1d on the valid steps of all rows, side by side in one long list."""
    ours, theirs = nn.BatchNorm1d(F).double(), nn.BatchNorm1d(F).double()
    mask = valid_mask(MIXED, 13)
    for seed in range(3):
        x = padded(13, 99.0, MIXED, seed).transpose(1, 2)
        valid = mask[:, 0]
        got = masked_norm(ours, x, mask).transpose(1, 2)
        assert torch.allclose(got[valid], theirs(x.transpose(1, 2)[valid]), rtol=0, atol=1e-10)
        assert (got[~valid] == 0).all()
    for p, q in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12)


# -- network ---------------------------------------------------------------------------------------


def test_a_batch_with_missing_rows_is_its_samples_one_by_one(tmp_path):
    """From the file to the features that fusion and heads read, teachers included."""
    spec, tables = load(tmp_path, present_text=np.arange(N) % 4 > 0)
    net = MultimodalNet(spec, partial(auto_encoder, dim=4), {}, Concat)
    teachers = {"text": net.encoders["text"]}
    forward = Forward(net, [], net.modalities, False, True, teachers, task_of(spec).criterion)
    batch = whole(tables["train"])
    features, present = forward.encode(batch)
    assert present["text"] is not None
    rows, lengths = batch["rows"]["text"], batch["lengths"]["text"]
    for i, row in enumerate(rows.tolist()):
        alone = net.encode("text", batch["x"]["text"][i : i + 1, : int(lengths[i])])
        assert torch.allclose(features["text"][row], alone[0], atol=1e-5), f"row {row} of {int(lengths[i])} steps"
    assert features["text"][~present["text"]].abs().sum() == 0
    step = forward(batch, plan=None, measure=False, t=0, epoch=0, epochs=1, rank=0)
    assert torch.allclose(step.teacher("text"), features["text"], atol=1e-5)


class Deaf(nn.Module):
    """Takes one tensor."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.out_dim, self.linear = 2, nn.Linear(int(np.prod(shape)), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_an_encoder_that_takes_one_tensor_is_refused_for_padded_sequences():
    def spec(is_padded: bool) -> DataSpec:
        return DataSpec({"text": ModalitySpec("text", "sequence", (T, F), is_padded)}, ["a", "b"])

    MultimodalNet(spec(False), Deaf, {}, Concat)
    MultimodalNet(spec(True), partial(auto_encoder, dim=4), {}, Concat)
    with pytest.raises(UserError) as error:
        MultimodalNet(spec(True), Deaf, {}, Concat)
    for told in ("model.encoder (modality text)", "Deaf", "takes_lengths", "model=small", "length_text"):
        assert told in str(error.value)
