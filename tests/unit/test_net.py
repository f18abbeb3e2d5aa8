"""The network: its components are independent of each other, its groups cover every parameter once."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.model.encoders.small import MLP, auto_encoder
from asgml.model.fusion.concat import Concat
from asgml.model.fusion.gated import Gated
from asgml.model.fusion.sum import Sum
from asgml.model.modality_dict import ModalityDict, modality_name, module_key
from asgml.model.net import MultimodalNet
from asgml.model.rows import present_mask, scatter
from callbacks.errors import UserError

ROOT = Path(__file__).parents[2]
SHAPES = {"audio": ("image", (1, 8, 8)), "visual": ("frames", (2, 3, 8, 8)), "eeg": ("vector", (4,))}


def spec(*names: str, **shapes: tuple[str, tuple[int, ...]]) -> DataSpec:
    chosen = {m: SHAPES[m] for m in names} | shapes
    return DataSpec({m: ModalitySpec(m, kind, shape) for m, (kind, shape) in chosen.items()}, ["a", "b", "c"])


def net(data: DataSpec, seed: int = 0, fusion=Concat, **encoders) -> MultimodalNet:
    return MultimodalNet(data, partial(auto_encoder, dim=8), encoders, fusion, seed=seed)


def batch(data: DataSpec, n: int = 4) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    return {m: torch.randn(n, *s.shape) for m, s in data.modalities.items()}, dict.fromkeys(data.modalities)


def features(
    model: MultimodalNet, x: dict[str, Tensor], rows: dict[str, Tensor | None], n: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features and masks of a batch of n samples, as a step makes them."""
    placed = {m: scatter(model.encode(m, x[m]), rows[m], n) for m in model.modalities}
    return placed, {m: present_mask(rows[m], n) for m in model.modalities}


def logits(model: MultimodalNet, x: dict[str, Tensor], rows: dict[str, Tensor | None], n: int = 4) -> Tensor:
    return model.fusion(*features(model, x, rows, n))


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_initial_weights_depend_on_seed_and_component_alone():
    full = net(spec("audio", "visual", "eeg"))
    less = net(spec("eeg", "audio"), fusion=partial(Gated, dim=4))
    for m in ("audio", "eeg"):
        assert same(full.encoders[m], less.encoders[m])
        assert same(full.heads[m], less.heads[m])
    torch.manual_seed(123)
    assert same(full, net(spec("audio", "visual", "eeg")))
    assert not same(full.encoders["eeg"], net(spec("eeg"), seed=1).encoders["eeg"])
    twins = net(spec(one=("vector", (4,)), two=("vector", (4,))))
    assert not same(twins.encoders["one"], twins.encoders["two"])


def test_construction_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    net(spec("audio", "visual"))
    assert torch.equal(torch.randn(3), expected)


def test_groups_cover_every_parameter_once():
    model = net(spec("audio", "visual", "eeg"))
    groups = model.groups()
    assert list(groups) == ["audio", "visual", "eeg", "fusion"]
    ids = [id(p) for group in groups.values() for p in group]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    assert {id(p) for p in groups["eeg"]} == {id(p) for p in model.encoders["eeg"].parameters()}


def test_shared_encoders_are_refused():
    shared = MLP((4,))

    def factory(shape: tuple[int, ...]) -> nn.Module:
        return shared

    with pytest.raises(UserError, match="shared by one and two"):
        MultimodalNet(spec(one=("vector", (4,)), two=("vector", (4,))), factory, {}, Concat)


def test_logits_follow_present_rows():
    """A row without a modality gets the logits it would get if that modality were absent from the whole data."""
    data = spec("audio", "eeg")
    model = net(data, fusion=Sum)
    x, everything = batch(data)
    rows = {"audio": torch.tensor([0, 2]), "eeg": None}
    partly = logits(model, {"audio": x["audio"][[0, 2]], "eeg": x["eeg"]}, rows)
    whole = logits(model, x, everything)
    assert torch.allclose(partly[[0, 2]], whole[[0, 2]], atol=1e-6)
    only = model.fusion.unimodal_logits({"eeg": model.encode("eeg", x["eeg"])}, "eeg")
    assert torch.allclose(partly[[1, 3]], only[[1, 3]], atol=1e-6)


def test_modality_missing_from_the_whole_batch():
    data = spec("audio", "eeg")
    model = net(data)
    x, rows = batch(data)
    x["audio"], rows["audio"] = x["audio"][:0], torch.zeros(0, dtype=torch.long)
    f, present = features(model, x, rows, 4)
    assert not present["audio"].any()
    (model.fusion(f, present).sum() + model.heads["audio"](f["audio"]).sum()).backward()
    assert all(p.grad is not None and p.grad.count_nonzero() == 0 for p in model.groups()["audio"])
    assert any(p.grad.count_nonzero() > 0 for p in model.groups()["eeg"])


NAMES = [
    "a.b",
    "forward",
    "keys",
    "type",
    "training",
    "lip motion",
    "a%2Eb",
    "%",
    "",
    "a%",
    "кадр",
    "_modules",
    "x/y",
]


def test_any_string_is_a_modality_name():
    data = spec(**{name: ("vector", (4,)) for name in NAMES})
    for fusion in (Concat, Sum, partial(Gated, dim=4)):
        model = net(data, fusion=fusion)
        assert list(model.encoders) == list(model.encoders.keys()) == model.modalities == NAMES
        assert [m for m, _ in model.heads.items()] == NAMES
        assert list(model.groups()) == [*NAMES, "fusion"]
        x, rows = batch(data)
        assert logits(model, x, rows).shape == (4, 3)
        copy.deepcopy(model).load_state_dict(model.state_dict())
        assert model.train().eval().double().encode("type", x["type"].double()).shape == (4, 8)


def test_keys_in_state_dicts_are_readable_and_reversible():
    assert [modality_name(module_key(n)) for n in NAMES] == NAMES
    assert len({module_key(n) for n in NAMES}) == len(NAMES)
    assert module_key("audio") == "audio"
    assert module_key("lip motion") == "lip motion"
    assert "encoders.audio.layers.0.weight" in net(spec("audio")).state_dict()
    modules = ModalityDict({"a.b": nn.Identity()})
    assert "a.b" in modules
    assert "a%2Eb" not in modules
    del modules["a.b"]
    assert len(modules) == 0


def test_overrides_by_modality():
    model = net(spec("audio", "eeg"), eeg=partial(MLP, dim=5))
    assert model.encoders["eeg"].out_dim == 5
    assert model.heads["eeg"].in_features == 5
    with pytest.raises(UserError, match="did you mean audio"):
        net(spec("audio", "eeg"), audoi=partial(MLP, dim=5))


def test_bad_parts_are_told_with_their_place():
    with pytest.raises(UserError, match=r"model\.encoders\.audio \(modality audio\): MLP"):
        net(spec("audio"), audio=MLP)
    with pytest.raises(UserError, match="takes no `shape`"):
        net(spec("eeg"), eeg=nn.Identity)

    class Nameless(nn.Module):
        def __init__(self, shape: tuple[int, ...]):
            super().__init__()

    with pytest.raises(UserError, match="out_dim"):
        net(spec("eeg"), eeg=Nameless)
    with pytest.raises(UserError, match="parameter group"):
        net(spec(fusion=("vector", (4,))))
    with pytest.raises(UserError, match="at least 1 modality"):
        net(spec())


@pytest.mark.parametrize("model_name", ["small", "resnet18", "resnet18_gn"])
@pytest.mark.parametrize("fusion_name", ["concat", "sum", "film", "gated", "mlp", "transformer", "cross_attention"])
def test_configs_build(model_name, fusion_name):
    config = OmegaConf.load(ROOT / f"conf/asgml/model/{model_name}.yaml")
    text = (ROOT / f"conf/asgml/fusion/{fusion_name}.yaml").read_text()
    assert text.startswith("# @package model.fusion\n")
    config.fusion = OmegaConf.create(text)
    if "width" in config.encoder:
        config.encoder.width = 4
    data = spec("audio", "visual")
    model = hydra.utils.instantiate(config)(spec=data, seed=0)
    x, rows = batch(data)
    assert logits(model, x, rows).shape == (4, 3)
