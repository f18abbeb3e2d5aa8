"""FeedbackModel: a frozen CLIP whose adapted towers read each other; without adapters and feedback it is CLIP."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from asgml.feedback.model.adapters import Adapter
from asgml.feedback.model.clip import load_clip, tiny_clip
from asgml.feedback.model.prompts import prompts
from asgml.feedback.model.system import FeedbackModel, Layers
from callbacks.errors import UserError
from callbacks.stages.branch import switched

CLASSES = ["wood", "metal_nut"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(image_size=32, patch_size=8, image_dim=32, text_dim=24, blocks=4, heads=2)


@pytest.fixture
def model(clip):
    return FeedbackModel(clip, CLASSES, loops=3, heads=2)


def pictures(n: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_block_by_block_the_towers_are_those_of_transformers(clip):
    x, ids = pictures(), clip.tokenize(["a photo of wood.", "x"])
    tokens, words = clip.image_start(x), clip.text_start(ids)
    for n in range(1, 5):
        tokens, words = clip.image_block(n, tokens), clip.text_block(n, words)
    image = clip.model.visual_projection(clip.image_end(tokens[:, 0]))
    text = clip.model.text_projection(clip.text_end(words, ids))
    assert torch.allclose(image, clip.model.get_image_features(x).pooler_output, atol=1e-6)
    assert torch.allclose(text, clip.model.get_text_features(ids).pooler_output, atol=1e-6)


def test_published_places_follow_from_the_number_of_blocks():
    published = Layers((1, 2, 3, 4, 5, 6), (1, 2, 3), (6, 12, 18, 24))
    assert Layers.of(24, 12) == published
    assert Layers.of(4, 4) == Layers((1,), (1,), (1, 2, 3, 4))
    assert Layers.of(2, 1).levels == (1, 2)


def test_prompts_are_of_three_normal_and_five_damaged_states_in_two_templates():
    normal, damaged = prompts("metal_nut")
    assert len(normal) == 6
    assert len(damaged) == 10
    assert "a photo of a broken metal nut." in damaged


def test_only_what_is_trained_is_in_the_state_and_clip_never_moves(clip, model):
    assert not any("clip" in name for name in model.state_dict())
    names = {id(p) for params in model.groups().values() for p in params}
    assert names == {id(p) for p in model.parameters()}
    assert sum(len(params) for params in model.groups().values()) == len(names)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    loop = model(pictures(), torch.tensor([0, 1, 0]))[-1]
    (sum(level.square().mean() for level in loop.patches) + loop.logits.square().mean()).backward()
    optimizer.step()
    assert all(p.grad is not None and p.grad.count_nonzero() for p in model.parameters() if p.dim() > 1)
    assert not clip.moved()
    assert all(not p.requires_grad and p.grad is None for p in clip.model.parameters())


def test_the_base_is_the_published_pass(clip, model):
    """Adapters after their blocks, four projected levels, anchors of normalised prompts, the mean patch."""
    x, classes = pictures(2), torch.tensor([1, 0])
    (base,) = model(x, classes, loops=0)
    directions = []
    for c in classes:
        ends = []
        for texts in prompts(CLASSES[c]):
            ids = clip.tokenize(texts)
            words = model.text_adapters["1"](clip.text_block(1, clip.text_start(ids)))
            for n in (2, 3, 4):
                words = clip.text_block(n, words)
            ends.append(
                F.normalize(F.normalize(model.text_projection(clip.text_end(words, ids)), dim=-1).mean(0), dim=0)
            )
        directions.append(torch.stack(ends))
    anchors = torch.stack(directions)
    assert torch.allclose(base.anchors, anchors, atol=1e-5)
    tokens = model.image_adapters["1"](clip.image_block(1, clip.image_start(x)))
    for i, n in enumerate((1, 2, 3, 4)):
        tokens = clip.image_block(n, tokens) if n > 1 else tokens
        patches = F.normalize(model.patch_projections[str(n)](clip.image_end(tokens[:, 1:])), dim=-1)
        for b in range(2):
            expected = 100 * (patches[b] @ anchors[b].T).T.reshape(2, 4, 4)
            assert torch.allclose(base.patches[i][b], expected, atol=1e-3)
    feature = F.normalize(model.picture_projection(clip.image_end(tokens[:, 1:])), dim=-1).mean(1)
    assert torch.allclose(base.logits, 100 * (anchors @ feature.unsqueeze(2)).squeeze(2), atol=1e-3)


def test_loops_feed_the_image_back_into_the_text_and_the_first_does_not(model):
    x, classes = pictures(), torch.tensor([0, 1, 0])
    with torch.no_grad():
        one, two, three = model(x, classes)
        (base,) = model(x, classes, loops=0)
        assert len(model(x, classes, loops=1)) == 1
        assert torch.equal(one.anchors[0], one.anchors[2])  # of the class
        assert not torch.equal(two.anchors[0], two.anchors[2])  # of the picture
        assert torch.equal(one.anchors, base.anchors)
        for a, b in ((base, one), (one, two), (two, three)):
            assert not torch.equal(a.logits, b.logits)
        again = model(x[[2, 0]], classes[[2, 0]])[2]  # pictures do not see each other
        assert torch.allclose(again.logits, three.logits[[2, 0]], atol=1e-3)


def test_without_its_branches_every_loop_is_the_base(model):
    x, classes = pictures(2), torch.tensor([0, 1])
    with torch.no_grad():
        (base,) = model(x, classes, loops=0)
        with switched(model, "off"):
            for loop in model(x, classes):
                assert torch.allclose(loop.logits, base.logits, atol=1e-4)
                assert torch.allclose(loop.anchors, base.anchors, atol=1e-5)


def test_an_adapter_keeps_the_norm_of_what_it_adds():
    adapter, x = Adapter(8, 0.1), torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    added = adapter(x) - 0.9 * x
    assert torch.allclose(added.norm(dim=-1), 0.1 * x.norm(dim=-1), atol=1e-6)


def test_frozen_levels_and_the_path_of_values(clip, model):
    x = pictures(2)
    tokens = clip.image_start(x)
    plain = model.frozen_levels(x)
    for level in plain[:3]:
        tokens = clip.image_block(1 + [torch.equal(level, p) for p in plain].index(True), tokens)
        assert torch.equal(level, tokens[:, 1:])
    surgery = model.frozen_levels(x, surgery=3)
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], surgery[:2], strict=True))
    second = plain[1] + clip.value_value(3, _behind(clip, x, 2))[:, 1:]
    assert torch.allclose(surgery[2], second, atol=1e-6)
    attention, block = clip.model.vision_model.encoder.layers[2].self_attn, clip.model.vision_model.encoder.layers[2]
    v = attention.v_proj(block.layer_norm1(_behind(clip, x, 2)))
    heads = [(p @ p.transpose(1, 2) / 16**0.5).softmax(-1) @ p for p in v.split(16, -1)]
    assert torch.allclose(clip.value_value(3, _behind(clip, x, 2)), attention.out_proj(torch.cat(heads, -1)), atol=1e-6)


def _behind(clip, x, blocks):
    tokens = clip.image_start(x)
    for n in range(1, blocks + 1):
        tokens = clip.image_block(n, tokens)
    return tokens


def test_another_size_of_pictures_and_a_folder_of_weights(clip, model, tmp_path):
    assert model(pictures(1, 48), torch.tensor([0]))[0].patches[0].shape == (1, 2, 6, 6)
    clip.model.save_pretrained(tmp_path)
    clip.tokenizer.save_pretrained(tmp_path)
    again = load_clip(str(tmp_path))
    again.to(torch.device("cpu"), torch.float64)
    assert not again.moved()
    again.model.logit_scale.data += 1
    assert again.moved()
    assert again.fingerprint() == clip.fingerprint() != tiny_clip(32, 8, 32, 24, 4, 2, seed=1).fingerprint()
    assert torch.equal(again.tokenize(["a wood."]), clip.tokenize(["a wood."]))
    with pytest.raises(UserError, match="a folder or hub id with a CLIPModel"):
        load_clip(str(tmp_path / "none"), local_files_only=True)


def test_what_is_refused(clip):
    with pytest.raises(UserError, match="set the size of pictures to 32"):
        FeedbackModel(clip, CLASSES, heads=2)(pictures(1, 30), torch.tensor([0]))
    with pytest.raises(UserError, match="blocks from 1 to 4"):
        FeedbackModel(clip, CLASSES, layers=Layers((1,), (1,), (2, 9)), heads=2)
    with pytest.raises(UserError, match="shorten the class name"):
        FeedbackModel(clip, ["x" * 80], heads=2)(pictures(1), torch.tensor([0]))
    with pytest.raises(UserError, match="set heads=4"):
        FeedbackModel(clip, CLASSES, heads=5)
    with pytest.raises(UserError, match=r"set clip\.heads=4"):
        tiny_clip(16, 4, 16, 12, 2, heads=5)
    with pytest.raises(UserError, match=r"set clip\.patch_size=16"):
        tiny_clip(16, 32, 16, 12, 2, 4)


def test_a_folder_without_one_tower_is_refused_and_not_drawn_at_random(clip, tmp_path):
    clip.model.vision_model.config.save_pretrained(tmp_path)
    weights = {f"vision_model.{n}": v for n, v in clip.model.vision_model.state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    clip.tokenizer.save_pretrained(tmp_path)
    clip.model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no weights for"):
        load_clip(str(tmp_path), local_files_only=True)


def test_cosines_are_compared_in_fp32_under_autocast(model):
    features, anchors = (F.normalize(torch.randn(2, n, 24), dim=-1) for n in (50, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = model._logits(features, anchors)
    assert torch.equal(found, model._logits(features, anchors))
    assert model._logits(features.bfloat16(), anchors.bfloat16()).dtype == torch.float32
