"""CREMA-D mini: deterministic files, exact ceilings, an easy voice and a hard face."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from asgml.data import cremad_mini
from asgml.data.counter_rng import sample_keys, shuffled
from asgml.data.cremad import EMOTIONS, CremaD
from asgml.data.cremad_mini import PARTNERS, CremadMini, ceilings, confusion
from asgml.data.spec import SPLITS
from asgml.data.validate import validate
from callbacks.errors import UserError


def mini(path: Path, **change) -> CremadMini:
    return CremadMini(**{"path": str(path), "samples": 96, "actors": 8, **change})


def digest(root: Path) -> dict[str, str]:
    files = (p for p in root.rglob("*") if p.is_file() and "prepared" not in p.parts)
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_rendering_is_deterministic_and_restartable(tmp_path, monkeypatch):
    a = mini(tmp_path / "a")
    a.render()
    want = digest(a.root)
    assert len(want) == 96 * 2 + 4
    calls, write = [], cremad_mini.write_bytes

    def stop_midway(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 60:
            path.with_name(path.name + ".tmp").write_bytes(content[:10])
            raise KeyboardInterrupt
        write(path, content)

    b = mini(tmp_path / "b")
    monkeypatch.setattr(cremad_mini, "write_bytes", stop_midway)
    with pytest.raises(KeyboardInterrupt):
        b.render()
    assert not (b.root / "train.csv").exists()
    monkeypatch.setattr(cremad_mini, "write_bytes", write)
    b.render()
    assert {k: v for k, v in digest(b.root).items() if not k.endswith(".tmp")} == want
    stamp = (b.root / "train.csv").stat().st_mtime_ns
    b.render()
    assert (b.root / "train.csv").stat().st_mtime_ns == stamp


def test_every_parameter_of_the_rendering_has_its_own_folder(tmp_path):
    changes = (
        {"seed": 1},
        {"dominance": 0.5},
        {"samples": 102},
        {"actors": 9},
        {"confusion": "uniform"},
        {"ambiguity": {"audio": 0.2, "visual": 0.1}},
        {"store": [48, 48]},
        {"sample_rate": 16000},
    )
    roots = {mini(tmp_path, **c).root for c in ({}, *changes)}
    assert len(roots) == len(changes) + 1
    assert mini(tmp_path, mels=40, frames=1, split_seed=3).root == mini(tmp_path).root


def test_it_is_cremad_with_disjoint_speakers(tmp_path):
    s = mini(tmp_path)
    tables, spec = s.tables(), s.spec()
    validate(spec, tables)
    actors = [{i.split("_")[0] for i in tables[k].ids} for k in SPLITS]
    assert sum(map(len, actors)) == 8 == len(set.union(*actors))
    assert spec.dominant == "audio"
    assert [m.shape for m in spec.modalities.values()] == [(1, 32, 98), (3, 32, 32)]
    assert np.bincount(np.concatenate([tables[k].y for k in SPLITS])).tolist() == [16] * 6
    plain = CremaD(
        str(s.root),
        "fbank",
        8000,
        1.0,
        32,
        size=32,
        store=[40, 40],
        split="published",
        val_fraction=0.2,
        prepared=str(tmp_path / "plain"),
    ).tables()
    assert len(plain["test"]) == 9
    row = tables["train"].ids.index(next(i for i in plain["train"].ids if i in tables["train"].ids))
    twin = plain["train"].ids.index(tables["train"].ids[row])
    np.testing.assert_array_equal(plain["train"].x["visual"][twin], tables["train"].x["visual"][row])


@pytest.mark.parametrize("kind", ["uniform", "complementary"])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.05, 0.3), (0.0, 0.4)])
def test_ceilings_are_those_of_the_best_reader(kind, rates):
    """Monte Carlo over the generator's own draws: a reader who knows all cues and the table of confusions."""
    s = CremadMini("x", samples=24000, actors=90, confusion=kind, ambiguity=dict(zip(("audio", "visual"), rates)))
    takes = s.takes()
    y = np.array([t.label for t in takes])
    cue = {m: np.array([t.cues[m] for t in takes]) for m in ("audio", "visual")}
    table = {m: confusion(kind, m, r) for m, r in s.ambiguity.items()}
    told = s.spec().notes["ceiling"]
    for m, rate in s.ambiguity.items():
        np.testing.assert_allclose(table[m].sum(1), 1)
        assert abs((table[m][:, cue[m]].argmax(0) == y).mean() - told[m]) < 0.01
        assert told[m] == pytest.approx(1 - rate)
    fused = (table["audio"][:, cue["audio"]] * table["visual"][:, cue["visual"]]).argmax(0)
    assert abs((fused == y).mean() - told["fused"]) < 0.01
    assert told["fused"] == pytest.approx(1 - min(rates) if kind == "uniform" else 1.0)


def test_ceilings_of_other_tables():
    blind, sure = np.full((4, 4), 0.25), np.eye(4)
    assert ceilings({"a": blind}) == {"a": 0.25, "fused": 0.25}
    assert ceilings({"a": blind, "b": sure, "c": blind}) == {"a": 0.25, "b": 1.0, "c": 0.25, "fused": 1.0}


def test_partners_differ_between_voice_and_face():
    for partner in PARTNERS.values():
        assert all(partner[partner[i]] == i != partner[i] for i in range(6))
    assert all(a != v for a, v in zip(*PARTNERS.values()))


def test_takes_are_balanced_and_their_ids_say_the_label():
    takes = CremadMini("x", samples=1200, actors=24).takes()
    assert len({t.id for t in takes}) == 1200
    assert all(EMOTIONS[t.label] == t.id.split("_")[2] for t in takes)
    per_actor = np.zeros((24, 6), dtype=int)
    for t in takes:
        per_actor[t.actor, t.label] += 1
    assert per_actor.min() >= 8
    assert len({t.id for t in CremadMini("x", samples=864, actors=3).takes()}) == 864


def learn(tables: dict, modalities: list[str], epochs: int) -> tuple[float, dict[str, torch.nn.Module]]:
    """Test accuracy of small CNNs, concatenated, after SGD on the tables; and the encoders."""
    torch.manual_seed(0)

    def encoder(channels: int) -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for a, b in ((channels, 16), (16, 32), (32, 64)):
            layers += [torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, 64))

    encoders = {m: encoder(1 if m == "audio" else 3) for m in modalities}
    net = torch.nn.ModuleDict({**encoders, "head": torch.nn.Linear(64 * len(modalities), 6)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)

    def logits(split: str, rows: np.ndarray, epoch: int) -> torch.Tensor:
        t, keys = tables[split], sample_keys(0, np.full(len(rows), epoch), rows)
        features = [encoders[m](t.transforms[m](t.x[m][rows], keys, split == "train")) for m in modalities]
        return net["head"](torch.cat(features, 1))

    train, test = tables["train"], tables["test"]
    for epoch in range(epochs):
        net.train()
        for rows in np.array_split(shuffled(len(train), epoch), len(train) // 64):
            loss = torch.nn.functional.cross_entropy(logits("train", rows, epoch), torch.from_numpy(train.y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        told = logits("test", np.arange(len(test)), 0).argmax(1).numpy()
    return float((told == test.y).mean()), encoders


@pytest.mark.slow
@pytest.mark.slow
def test_the_voice_is_learned_first(tmp_path):
    """New speakers, 6 epochs: the voice is near its ceiling of 0.9 when the face has hardly begun."""
    tables = CremadMini(str(tmp_path)).tables()
    audio, visual = learn(tables, ["audio"], 6)[0], learn(tables, ["visual"], 6)[0]
    assert audio > 0.7
    assert 0.2 < visual < audio - 0.25


@pytest.mark.slow
def test_the_face_can_be_learned_alone_and_not_beside_the_voice(tmp_path):
    """The imbalance that the suite is about, at the default dominance."""
    tables = CremadMini(str(tmp_path)).tables()
    alone = learn(tables, ["visual"], 60)[0]
    audio, joint = learn(tables, ["audio"], 60)[0], learn(tables, ["audio", "visual"], 60)
    assert alone > 0.55
    assert joint[0] < audio + 0.08  # the fused ceiling is 1.0

    def probe(encoder: torch.nn.Module) -> float:
        """Ridge regression on frozen features."""
        features = {}
        for split in ("train", "test"):
            t = tables[split]
            with torch.no_grad():
                x = encoder.eval()(t.transforms["visual"](t.x["visual"][:], np.zeros(len(t), np.uint64), False))
            features[split] = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        x, y = features["train"], torch.nn.functional.one_hot(torch.from_numpy(tables["train"].y)).double()
        weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ y)
        return float(((features["test"] @ weights).argmax(1).numpy() == tables["test"].y).mean())

    assert 0.25 < probe(joint[1]["visual"]) < alone - 0.1


def test_impossible_parameters_are_refused():
    for change in (
        {"actors": 2},
        {"samples": 10},
        {"samples": 10**6},
        {"dominance": 1.5},
        {"ambiguity": {"audio": 0.6}},
        {"ambiguity": {"text": 0.1}},
        {"size": 0},
    ):
        with pytest.raises(UserError, match=f"data.{next(iter(change))}"):
            mini(Path("x"), **change)
