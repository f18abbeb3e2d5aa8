"""Encoders: pretrained weights arrive as published, any input size works, padding does not count."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from asgml.model.encoders.base import Encoder, no_rows
from asgml.model.encoders.hf_text import HFTextEncoder
from asgml.model.encoders.resnet import ResNet18, adapt_input_kernel, read_state_dict
from asgml.model.encoders.small import MLP, FrameCNN, SmallCNN, TemporalConv, TokenConv, auto_encoder
from callbacks.errors import UserError

BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def published() -> torchvision.models.ResNet:
    """torchvision's ResNet18 with statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return net


@pytest.fixture(scope="module")
def checkpoint(published: torchvision.models.ResNet, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(published.state_dict(), path)
    return str(path)


def published_features(net: torchvision.models.ResNet, x: torch.Tensor) -> torch.Tensor:
    return nn.Sequential(*list(net.children())[:-1], nn.Flatten())(x)


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_is_the_published_one(published, checkpoint, training):
    encoder = ResNet18((3, 64, 64), weights=checkpoint).train(training)
    assert encoder.out_dim == 512
    x = torch.randn(2, 3, 64, 64)
    state = {k: v.clone() for k, v in published.state_dict().items()}
    assert torch.equal(encoder(x), published_features(published.train(training), x))
    published.load_state_dict(state)


def test_first_convolution_for_one_channel_is_the_mean_over_rgb(published, checkpoint):
    encoder = ResNet18((1, 64, 64), weights=checkpoint).eval()
    assert torch.equal(encoder.conv1.weight, published.conv1.weight.mean(1, keepdim=True))
    grey = torch.randn(2, 1, 64, 64)
    expected = published_features(published.eval(), grey.expand(-1, 3, -1, -1))
    assert torch.allclose(encoder(3 * grey), expected, atol=1e-5)
    assert encoder.bn1.num_batches_tracked == 7  # the statistics came along


def test_kernels_for_other_channel_counts_keep_the_scale(published):
    kernel = published.conv1.weight.detach()
    mean = kernel.mean(1)
    assert torch.equal(adapt_input_kernel(kernel, 2), torch.stack([mean, mean], 1))
    assert torch.allclose(adapt_input_kernel(kernel, 6).sum(1), kernel.sum(1), atol=1e-6)


def test_frames_are_encoded_one_by_one_and_averaged(checkpoint):
    frames, image = (ResNet18(s, weights=checkpoint).eval() for s in ((4, 3, 32, 32), (3, 32, 32)))
    x = torch.randn(2, 4, 3, 32, 32)
    expected = torch.stack([image(x[:, t]) for t in range(4)]).mean(0)
    assert torch.allclose(frames(x), expected, atol=1e-5)


def test_safetensors_and_pth_give_the_same_network(published, checkpoint, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(published.state_dict(), path)
    one, other = (ResNet18((3, 32, 32), weights=str(w)).state_dict() for w in (path, checkpoint))
    assert all(torch.equal(one[k], other[k]) for k in other)


def test_pretrained_weights_that_do_not_fit_are_refused(published, checkpoint, tmp_path, monkeypatch):
    def saved(state: object, name: str = "w.pth") -> str:
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    state = published.state_dict()
    with pytest.raises(UserError, match=r"missing layer4\.1\.conv2\.weight; unexpected none"):
        ResNet18((3, 32, 32), weights=saved({k: v for k, v in state.items() if k != "layer4.1.conv2.weight"}))
    with pytest.raises(UserError, match=r"unexpected module\.extra"):
        ResNet18((3, 32, 32), weights=saved({**state, "module.extra": torch.zeros(1)}))
    with pytest.raises(UserError, match="width"):
        ResNet18((3, 32, 32), weights=checkpoint, width=8)
    with pytest.raises(UserError, match="norm=batch"):
        ResNet18((3, 32, 32), weights=checkpoint, norm="group")
    with pytest.raises(UserError, match="norm=batch"):
        ResNet18((3, 32, 32), weights="imagenet", norm="group")
    with pytest.raises(UserError, match="flat dict"):
        read_state_dict(saved({"state_dict": state}))
    with pytest.raises(UserError, match="no such file"):
        read_state_dict(str(tmp_path / "absent.pth"))
    for name in ("broken.pth", "broken.safetensors", "empty.pth"):
        (tmp_path / name).write_bytes(b"" if name == "empty.pth" else b"not a checkpoint at all")
        with pytest.raises(UserError, match="Error"):
            read_state_dict(str(tmp_path / name))
    with pytest.raises(UserError, match="UnpicklingError"):  # arbitrary objects are never unpickled
        read_state_dict(saved(Path("x")))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match="download https://"):
        ResNet18((3, 32, 32), weights="imagenet")


def test_group_norm_checkpoints_load_into_group_norm(tmp_path):
    torch.save(ResNet18((3, 32, 32), norm="group", width=8).state_dict(), tmp_path / "gn.pth")
    assert ResNet18((3, 32, 32), norm="group", width=8, weights=str(tmp_path / "gn.pth")).out_dim == 64


def small_bert(shape: tuple[int, ...], **more) -> HFTextEncoder:
    return HFTextEncoder(shape, config=BERT, **more)


ENCODERS = [
    (MLP, (5,)),
    (MLP, (1,)),
    (partial(MLP, layers=0), (3,)),
    (TemporalConv, (7, 5)),
    (TemporalConv, (1, 1)),
    (partial(TemporalConv, grid=1), (21, 2)),
    (SmallCNN, (3, 8, 8)),
    (SmallCNN, (1, 1, 1)),
    (FrameCNN, (3, 3, 8, 8)),
    (FrameCNN, (1, 1, 1, 1)),
    (FrameCNN, (9, 1, 5, 37)),
    (partial(FrameCNN, channels=[4, 6], grid=3), (2, 2, 3, 40)),
    (partial(ResNet18, norm="group", width=8), (1, 8, 8)),
    (partial(ResNet18, norm="group", width=2), (1, 1, 1)),
    (partial(ResNet18, norm="group", width=8), (2, 3, 8, 8)),
    (small_bert, (4,)),
    (partial(TokenConv, vocabulary=50), (4,)),
    (partial(TokenConv, vocabulary=50, grid=3), (1,)),
]


@pytest.mark.parametrize(("factory", "shape"), ENCODERS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_any_size_and_any_number_of_rows_trains(factory, shape, n):
    encoder: Encoder = factory(shape).train()
    x = torch.randint(-1, 50, (n, *shape)).float() if encoder.accepts == ("tokens",) else torch.randn(n, *shape)
    f = encoder(x)
    assert f.shape == (n, encoder.out_dim)
    assert f.isfinite().all()
    f.sum().backward()
    # every parameter takes part in a reduction over ranks, whatever rows this rank has
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    if n == 0:
        assert all(p.grad.count_nonzero() == 0 for p in encoder.parameters())


@pytest.mark.parametrize("factory", [small_bert, partial(TokenConv, vocabulary=50)])
def test_encoders_of_tokens_become_programs_for_any_number_of_rows(factory):
    """What leaves the suite by `asgml.export` is such a program."""
    encoder: Encoder = factory((4,)).eval()
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(encoder, (torch.randint(-1, 50, (3, 4)),), dynamic_shapes=({0: rows},)).module()
    five = torch.randint(-1, 50, (5, 4))
    with torch.no_grad():
        assert torch.allclose(program(five), encoder(five), atol=1e-5)
    with pytest.raises(IndexError):
        program(torch.full((1, 4), 10**6))


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (partial(SmallCNN, norm="batch"), (1, 1, 1)),
        (partial(TemporalConv, norm="batch"), (1, 4)),
        (partial(FrameCNN, norm="batch"), (1, 1, 8, 8)),
        (partial(ResNet18, width=8), (1, 8, 8)),
    ],
)
def test_batch_norm_on_few_rows(factory, shape):
    encoder = factory(shape)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(torch.randn(0, *shape)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())  # no empty batch is counted
    with pytest.raises(UserError, match="norm=group"):
        encoder(torch.randn(1, *shape))
    assert encoder.eval()(torch.randn(1, *shape)).isfinite().all()


def test_group_norm_features_do_not_depend_on_the_other_rows():
    for encoder, shape in ((SmallCNN((3, 8, 8)), (3, 8, 8)), (TemporalConv((9, 5)), (9, 5)), (MLP((6,)), (6,))):
        x = torch.randn(4, *shape)
        assert torch.allclose(encoder(x)[1:2], encoder(x[1:2]), atol=1e-6)


def test_padding_of_tokens_neither_counts_nor_reaches_the_embedding():
    encoder = TokenConv((6,), vocabulary=9, dim=5, grid=2).eval()
    tokens = torch.tensor([[3, 8, 0, -1, -1, -1], [3, 8, 0, 1, 2, 4], [-1] * 6])
    features = encoder(tokens)
    assert features.isfinite().all()
    row = encoder(tokens[:1])
    assert torch.allclose(features[:1], row, atol=1e-6), "a row's feature is its own"
    with torch.no_grad():
        encoder.embedding.weight[1:3] += 1.0  # tokens of the second row only
    assert torch.equal(encoder(tokens[:1]), row)
    row.sum().backward()
    assert encoder.embedding.weight.grad[[1, 2, 4, 5, 6, 7]].count_nonzero() == 0
    for given, told in ((None, "set model.encoders"), (8, "set vocabulary=9")):
        with pytest.raises(UserError, match=told):
            TokenConv((6,), vocabulary=given)(tokens)


def test_auto_encoder_follows_the_kind():
    kinds = {"vector": MLP, "sequence": TemporalConv, "image": SmallCNN, "frames": FrameCNN}
    for shape, kind in {(4,): "vector", (3, 4): "sequence", (1, 8, 8): "image", (2, 1, 8, 8): "frames"}.items():
        for given in (None, kind):
            encoder = auto_encoder(shape, dim=12, kind=given)
            assert type(encoder) is kinds[kind]
            assert encoder.out_dim == 12
            assert encoder(torch.randn(2, *shape)).shape == (2, 12)
    with pytest.raises(UserError, match="HFTextEncoder"):
        auto_encoder((4,), kind="tokens")
    assert type(auto_encoder((4,), kind="tokens", vocabulary=9)) is TokenConv
    for shape in ((), (2, 2, 2, 2, 2), (0,)):
        with pytest.raises(UserError, match="auto_encoder"):
            auto_encoder(shape)
    with pytest.raises(UserError, match="expected: vector"):
        MLP((4,), kind="tokens")
    with pytest.raises(UserError, match="samples of shape"):
        SmallCNN((4, 4))


def test_frozen_parameters_take_no_part_in_an_empty_batch():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert not no_rows(frozen, 2).requires_grad
    assert no_rows(nn.Identity(), 3).shape == (0, 3)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_text_pooling_ignores_padding(pooling):
    ids = torch.randint(5, 50, (2, 4))
    encoder = small_bert((7,), pooling=pooling).eval()
    padded = torch.cat([ids, torch.full((2, 3), -1)], 1)
    assert torch.allclose(encoder(padded), encoder(ids), atol=1e-6)
    assert torch.equal(encoder(padded.float()), encoder(padded))  # the data module delivers floats
    # mean and cls are what they say
    states = encoder.model(input_ids=ids).last_hidden_state
    expected = states.mean(1) if pooling == "mean" else states[:, 0]
    assert torch.allclose(encoder(padded), expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_text_without_any_token_is_zero_and_harmless(pooling):
    encoder = small_bert((4,), pooling=pooling)
    ids = torch.tensor([[5, 6, -1, -1], [-1, -1, -1, -1]])
    f = encoder(ids)
    assert f[1].count_nonzero() == 0
    f.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_frozen_text_model_has_no_graph_and_no_dropout():
    encoder = small_bert((4,), frozen=True, dim=6).train()
    ids = torch.randint(0, 50, (2, 4))
    f = encoder(ids)
    assert torch.equal(f, encoder(ids))
    assert encoder.out_dim == 6
    f.sum().backward()
    assert all(p.grad is None for p in encoder.model.parameters())
    assert encoder.projection.weight.grad.count_nonzero() > 0


def test_text_model_from_a_folder(tmp_path):
    source = small_bert((4,)).eval()
    source.model.half().save_pretrained(tmp_path / "bert")
    encoder = HFTextEncoder((4,), model=str(tmp_path / "bert"), local_files_only=True).eval()
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    ids = torch.randint(0, 50, (2, 4))
    assert torch.equal(encoder(ids), source.float()(ids))


def test_text_encoder_errors_name_the_remedy(tmp_path):
    for arguments in ({}, {"model": "x", "config": BERT}):
        with pytest.raises(UserError, match="exactly one"):
            HFTextEncoder((4,), **arguments)
    with pytest.raises(UserError, match="did you mean hidden_size"):
        HFTextEncoder((4,), config={"model_type": "bert", "hiden_size": 8})
    with pytest.raises(UserError, match="model_type"):
        HFTextEncoder((4,), config={"hidden_size": 8})
    with pytest.raises(UserError, match="at most 32"):
        small_bert((33,))
    with pytest.raises(UserError, match="hf download"):
        HFTextEncoder((4,), model=str(tmp_path / "absent"), local_files_only=True)
    with pytest.raises(UserError, match="vocabulary size 50"):
        small_bert((4,))(torch.full((1, 4), 50))


def test_encoder_decoder_models_use_their_encoder():
    config = {
        "model_type": "t5",
        "vocab_size": 50,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
    }
    encoder = HFTextEncoder((4,), config=config)
    assert encoder(torch.randint(0, 50, (2, 4))).shape == (2, 16)
