"""Numbers, names and empty values that mean nothing to latentwire, refused before any model is loaded."""

from __future__ import annotations

import copy
from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks.errors import UserError
from callbacks.ranges import Slots
from latentwire.codec.message import MOST_SLOTS
from latentwire.run import Tree, dead, judge
from suite.config.check import check, check_effective
from suite.config.compose import Composer
from suite.config.wording import bounds_in

GROUPS = ("codec", "corpus", "baseline", "objective", "encoder", "pooling")
NESTED = "{_target_:latentwire.train.NestedBudgets"
HIERARCHY = "encoder=byte pooling@encoder.pooling=hierarchical"
SLOTS = "{_target_:latentwire.train.SlotDropout"
LORA = "{_target_:latentwire.lm.LoRA"
RULE = "{_target_:latentwire.acceptance.Rule,metric:methods.wire.f1"


@cache
def composed(*choices: str) -> DictConfig:
    return Composer("latentwire").compose(choices)


def tree(*line: str) -> DictConfig:
    """What a command line composes; of lines with the same choices of options the YAML files are read once."""
    parsed = OverridesParser.create().parse_overrides(list(line))
    choices = [o.input_line or "" for o in parsed if o.key_or_group.partition("@")[0] in GROUPS]
    cfg = copy.deepcopy(composed(*choices))
    with open_dict(cfg):
        for o in parsed:
            if o.input_line not in choices:
                OmegaConf.update(cfg, o.key_or_group, o.value(), merge=True, force_add=o.is_add())
    return cfg


def accept(*line: str) -> None:
    cfg = tree(*line)
    check(cfg, Tree)
    check_effective(cfg, line, dead)
    judge(cfg)


def problem(*line: str) -> UserError:
    with pytest.raises(UserError) as error:
        accept(*line)
    return error.value


@pytest.mark.parametrize(
    ("override", "where", "expected", "remedy"),
    [
        ("wire.ratio=-4", "wire.ratio", "a finite factor of 1 or more", "set wire.ratio=4"),
        ("wire.ratio=nan", "wire.ratio", "a finite factor of 1 or more", "set wire.ratio=4"),
        ("wire.slots=70000", "wire.slots", "1 to 65535 slots or null", "set wire.slots=64"),
        ("wire.slots=0", "wire.slots", "1 to 65535 slots or null", "set wire.slots=64"),
        ("wire.d_z=0", "wire.d_z", "a width from 1 to 65536", "set wire.d_z=64"),
        ("+wire.private.pocket_llama=-1", "wire.private.pocket_llama", "0 or 1 to 65535 slots", "pocket_llama="),
        ("wire.measured_texts=0", "wire.measured_texts", "from 1 to a billion", "set wire.measured_texts=1"),
        (
            f"+wire.nested={NESTED},budgets:[]}}",
            "wire.nested.budgets",
            "non-empty",
            "[1]",
        ),
        ("evaluation.n_boot=0", "evaluation.n_boot", "40 draws or more", "set evaluation.n_boot=2000"),
        ("evaluation.passages=-5", "evaluation.passages", "from 1 to a billion", "set evaluation.passages=1"),
        ("+evaluation.slots=[]", "evaluation.slots", "non-empty list", "set evaluation.slots=null"),
        ("observe_smoothing=1.5", "observe_smoothing", "a share from 0 to 1", "set observe_smoothing=0"),
        ("teacher.top_k=0", "teacher.top_k", "from 1 to a billion", "set teacher.top_k=1"),
        ("loader.batch_size=0", "loader.batch_size", "from 1 to a billion", "set loader.batch_size=1"),
        ("loader.workers=-1", "loader.workers", "0 to 256 processes", "set loader.workers=0"),
        ("loader.steps_per_epoch=0", "loader.steps_per_epoch", "or null", "set loader.steps_per_epoch=null"),
        ("trainer.max_epochs=0", "trainer.max_epochs", "-1 or a whole number from 1", "set trainer.max_epochs=100"),
        ("group_lr.encoder=inf", "group_lr.encoder", "a learning rate above 0", "set ++group_lr.encoder=0.001"),
        ("corpus.train=-1", "corpus.train", "from 0 to a billion", "set corpus.train=1000000"),
        ("encoder.heads=0", "encoder.heads", "a whole number from 1 to 1000", "set encoder.heads=4"),
        ("encoder.dropout=1", "encoder.dropout", "0 or more, below 1", "set encoder.dropout=0.0"),
        ("encoder.layers=[]", "encoder.layers", "non-empty list", "set encoder.layers=null"),
        ("adapter.expansion=0", "adapter.expansion", "from 1 to 1000", "set adapter.expansion=4"),
        ("injector.width=99999999", "injector.width", "a width from 1 to 65536", "set injector.width=256"),
        ("baselines.pca.headroom=1e30", "baselines.pca.headroom", "from 1 to 1000", "set baselines.pca.headroom=2.0"),
        ("objectives.answer_ce.weight.value=nan", "objectives.answer_ce.weight.value", "0 or more", "value=1.0"),
        ("stages.0.share=0", "stages.0.share", "a finite number above 0", "set stages.0.share=1.0"),
        ("+stages.0.ratio=0.5", "stages.0.ratio", "a finite factor of 1 or more", "set stages.0.ratio=null"),
        ("+stages.0.weights={}", "stages.0.weights", "non-empty", "set stages.0.weights=null"),
        ("+stages.0.weights={answer_ce:-1}", "stages.0.weights.answer_ce", "0 or more", "set stages.0.weights=null"),
        ("+stages.0.group_lr={encoder:-1}", "stages.0.group_lr.encoder", "from 0 (held)", "encoder=0.001"),
        (f"+adaptation.pocket_llama={LORA},rank:0}}", "adaptation.pocket_llama.rank", "a width from 1", "rank=8"),
        (f"+adaptation.pocket_llama={LORA},targets:[]}}", "adaptation.pocket_llama.targets", "non-empty", "null"),
        (f"+acceptance.evaluation.x={RULE},min:nan}}", "acceptance.evaluation.x.min", "a finite number", "min=null"),
        ("codec=rvq codec.size=1", "codec.size", "2 to 1048576 entries", "set codec.size=256"),
        ("codec=rvq codec.decay=1", "codec.decay", "a share of 0 or more, below 1", "set codec.decay=0.99"),
        ("codec=fsq codec.levels=[]", "codec.levels", "non-empty list", "set codec.levels=[2]"),
        ("codec=fsq codec.levels=[8,300]", "codec.levels.1", "a whole number from 2 to 256", "set codec.levels=[2]"),
        ("corpus=squad corpus.val_share=0.5", "corpus.val_share", "above 0 and below 0.5", "corpus.val_share=0.1"),
        ("baseline=[static_prefix] baselines.static_prefix.share=0", "baselines.static_prefix.share", "above 0", "1.0"),
        ("objective=[answer_kd] objectives.answer_kd.first=0", "objectives.answer_kd.first", "from 1", "first=null"),
        (f"+loader.slot_dropout={SLOTS},last:1.0}}", "loader.slot_dropout.last", "above 0 and below 1", "last=0.85"),
        (f"+adaptation.pocket_llama={LORA},dropout:1.0}}", "adaptation.pocket_llama.dropout", "below 1", "dropout=0.0"),
        ("baseline=[text_zstd] baselines.text_zstd.dictionary=9", "baselines.text_zstd.dictionary", "256", "16384"),
    ],
)
def test_a_value_outside_of_its_range_is_refused_with_the_range_and_one_inside(override, where, expected, remedy):
    error = problem(*override.split(" "))
    assert error.where == where
    assert expected in error.expected
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("override", "where", "remedy"),
    [
        ("group_lr={}", "group_lr={}", "~group_lr.encoder"),
        ("acceptance={}", "acceptance={}", "~acceptance.evaluation"),
        ("baselines={}", "baselines={}", "~baselines.text"),
        ("+group_lr.adaptor=0.1", "group_lr: adaptor", "write adapter in its place"),
        ("+adaptation.pocket_qwen={_target_:latentwire.lm.LoRA}", "adaptation.pocket_qwen", "adaptation.pocket_llama"),
        ("+placement.devices.x=cpu", "placement.devices.x", "placement.devices.pocket_llama"),
        ("+wire.private.lama=2", "wire.private.lama", "write wire.private.pocket_llama in its place"),
        ("+stages.0.weights={answer_ce:1,answer_kd:1}", "stages.0.weights.answer_kd", "answer_ce"),
        ("+acceptance.warmup.x={_target_:latentwire.acceptance.Rule,metric:grad_norm,min:0}", "acceptance.warmup", "~"),
        ("objectives.answer_ce=null", "objectives.answer_ce", "leave objectives.answer_ce out"),
        ("+lms.other=5", "lms.other", "leave lms.other out"),
        ("stages=[]", "stages", "set curriculum=single"),
        ("trainer.max_epochs=-1", "trainer.max_epochs, trainer.max_steps", "set trainer.max_epochs=16"),
        ("loader.accumulate=17", "loader.accumulate", "set loader.accumulate=1"),
        ("encoder=byte pooling@encoder.pooling=strided_conv encoder.pooling.kernel=2", "encoder.pooling", "kernel=3"),
        (
            f"{HIERARCHY} encoder.pooling.levels=1000",
            "encoder.pooling",
            "levels=2",
        ),
    ],
)
def test_names_that_nobody_has_and_values_that_switch_off_in_silence_are_refused(override, where, remedy):
    error = problem(*override.split(" "))
    assert error.where == where
    assert remedy in error.remedy


def test_slots_of_the_vocabulary_are_those_that_a_message_counts():
    assert bounds_in(Slots).le == MOST_SLOTS  # type: ignore[union-attr]
