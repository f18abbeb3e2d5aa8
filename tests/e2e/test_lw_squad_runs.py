"""The SQuAD experiments, two steps on tiny models of the very classes that they name, saved as those are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from callbacks.errors import UserError
from latentwire.build import build_inputs
from latentwire.data.squad import Squad
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import render
from latentwire.run import Tree, dead, earlier, task
from latentwire.train.lengths import lengths
from suite.config.compose import Composer
from suite.runs.launch import launch

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "squad"
DEV = "dev-v1.1.rebuilt.json"
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# one message of the shape that either family's template gives it
TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
    "<|end_header_id|>\n\n{% endif %}"
)
EXPERIMENTS = ("squad_llama", "squad_qwen", "squad_dual", "squad_hero")
READERS = {
    "squad_llama": ["llama31_8b"],
    "squad_qwen": ["qwen25_7b"],
    "squad_dual": ["llama31_8b", "qwen25_7b"],
    "squad_hero": ["llama31_8b", "qwen25_7b"],
}
SMALL = [
    "encoder.width=16", "encoder.heads=2", "encoder.refiner_layers=1", "injector.width=16", "wire.d_z=8",
    "wire.measured_texts=6", "loader.batch_size=4", "loader.accumulate=2", "loader.questions=2", "loader.workers=0",
    "encoder.max_tokens=1100",  # of a vocabulary of 4000, whose words are shorter than theirs
    "loader.steps_per_epoch=2", "loader.eval_passages=2", "trainer.max_epochs=1", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "callbacks.progress=null", "evaluation.passages=2", "evaluation.n_boot=40",
    "corpus.train=null", "~acceptance", "+acceptance={}",
]  # fmt: skip


def corpus_file(folder: Path) -> Path:
    """The real dev file where it is, else three articles of its shape."""
    if (DATA / DEV).is_file():
        return DATA / DEV
    articles = []
    for n in range(30):
        text = " ".join(
            f"In the year {1400 + n * 20 + i} the town number {i} had a mayor named Ann{i}." for i in range(9)
        )
        qas = [
            {"id": f"{n}/{i}", "question": f"Who was the mayor of town number {i}?",
             "answers": [{"text": f"Ann{i}", "answer_start": text.index(f"Ann{i}")}]}
            for i in range(3)
        ]  # fmt: skip
        articles.append({"title": f"t{n}", "paragraphs": [{"context": text, "qas": qas}]})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DEV).write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return folder / DEV


def texts(path: Path) -> list[str]:
    return [p["context"] for a in json.loads(path.read_text(encoding="utf-8"))["data"] for p in a["paragraphs"]]


def tokenizer_of(sample: list[str], bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE in the way of either family: Llama's puts BOS first, Qwen's has none."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sample, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]
        )
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=SPECIAL[4],
        pad_token=SPECIAL[1],
        additional_special_tokens=SPECIAL[2:4],
        **({"bos_token": SPECIAL[0]} if bos else {}),
    )
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the models and the corpus: grouped queries and Llama 3's scaled rotation, Qwen 2's biases."""
    folder = tmp_path_factory.mktemp("models")
    path = corpus_file(folder / "squad")
    sample = texts(path)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 4096,
    }  # fmt: skip
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}  # fmt: skip
    for name, bos in (("llama31_8b", True), ("qwen25_7b", False)):
        tokenizer = tokenizer_of(sample, bos)
        sizes |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        model: Any = (
            LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, rope_parameters=rope, tie_word_embeddings=False))
            if bos
            else Qwen2ForCausalLM(Qwen2Config(**sizes, bos_token_id=None, use_sliding_window=False))
        )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {"models": folder, "corpus": path}


def given(experiment: str, places: dict[str, Path], folder: Path) -> list[str]:
    own = [f"corpus.root={places['corpus'].parent}", f"corpus.dev={DEV}", f"paths.runs={folder}/runs"]
    for name in READERS[experiment]:
        own += [f"lms.{name}.source={places['models'] / name}", f"lms.{name}.dtype=float32"]
    return [f"experiment={experiment}", *SMALL, "trainer.precision=32-true", f"paths.cache={folder}/cache", *own]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_steps_and_an_evaluation(
    experiment: str, places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = 3 if experiment == "squad_hero" else 2  # a step for each stage
    shares = [f"stages.{n}.share=1.0" for n in range(count)]
    shares += ["codec.group=8"] if experiment == "squad_hero" else []  # as the latents are
    argv = [*given(experiment, places, tmp_path), f"loader.steps_per_epoch={count}", *shares]
    launch("latentwire", task, dead, schema=Tree, earlier=earlier, argv=argv)
    (path,) = (tmp_path / "runs").glob("*/*/result.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["status"] == "finished"
    assert found["counters"]["committed"] == count
    assert list(found["counters"]["stages"])[-1] == "adaptation"
    assert set(found["track"].values()) == {"trained"}
    said = capfd.readouterr().out
    assert "memory: about " in said
    assert f" h for {count} steps" in said
    assert "none cut" in said
    assert "beyond 16" in said


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_the_experiments_promise(experiment: str) -> None:
    cfg = Composer("latentwire").compose([f"experiment={experiment}"])
    assert list(cfg.lms) == list(cfg.adaptation) == READERS[experiment]
    assert [stage.name for stage in cfg.stages][-2:] == ["latents", "adaptation"]
    assert "lora" not in cfg.stages[0].trains
    assert cfg.evaluation.max_new_tokens == cfg.loader.eval_max_new_tokens == 16
    assert (cfg.trainer.accelerator, cfg.trainer.precision) == ("auto", "bf16-mixed")
    assert cfg.encoder.overflow == "refuse"
    assert cfg.loader.batch_size % cfg.loader.accumulate == 0
    assert all("few words" in node.instruction for node in cfg.lms.values())


@pytest.mark.slow
def test_every_context_of_the_real_file_fits_or_is_refused_before_training(
    places: dict[str, Path], tmp_path: Path
) -> None:
    if places["corpus"].parent != DATA:
        pytest.skip(f"no {DEV} in {DATA} (SUITE_DATA)")
    cfg = Composer("latentwire").compose(given("squad_llama", places, tmp_path))
    inputs = build_inputs(cfg)
    lm = inputs.lms["llama31_8b"]
    from latentwire.build import bare_wire

    encoder = bare_wire(cfg, inputs.lms, inputs.encoder_lm, 40, None).encoder
    whole = [p for split in ("train", "val", "test") for p in inputs.corpus.split(split)]  # type: ignore[arg-type]
    found = lengths(whole, encoder, inputs.lms, 16)
    assert (found.texts, found.answers) == (2067, 10570)
    counted = [len(lm.style.encode(p.text)) for p in whole]
    assert (found.longest, found.cut) == (max(counted), sum(n > encoder.max_tokens for n in counted))
    assert found.mean == pytest.approx(sum(counted) / len(counted))
    longest = max(whole, key=lambda p: len(p.text))
    encoder.max_tokens = max(counted) - 1
    with pytest.raises(UserError, match=rf"encoder\.max_tokens={max(counted)}"):
        encoder.tokenize([longest.text])
    encoder.overflow = "count"
    again = lengths(whole, encoder, inputs.lms, 16)
    assert (again.cut, again.cut_tokens) == (1, 1)
    assert "1 of them cut by 1 tokens in all" in again.told("train", 16)


def test_an_instruction_stands_before_every_answer(places: dict[str, Path]) -> None:
    said = "Answer with a few words of the text."
    source = str(places["models"] / "llama31_8b")
    plain, told = (FrozenLM.load(source, name="lm", instruction=i) for i in (None, said))
    a, b = (render(lm.style, "Ann lives in Rome.", "Where?", "Rome") for lm in (plain, told))
    assert (a.bos, a.context, a.answer) == (b.bos, b.context, b.answer)
    text = told.tokenizer.decode(list(b.ids))
    assert text.endswith(f"Question: Where?\n{said}\nAnswer:<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
                         "Rome<|eot_id|>")  # fmt: skip
    assert said in told.tokenizer.decode(list(b.cue)), "it is text where the question is compressed as well"
    assert plain.style.fingerprint() != told.style.fingerprint()


def test_the_corpus_of_the_experiments_is_the_official_one() -> None:
    cfg = Composer("latentwire").compose(["experiment=squad_llama", "paths.data=/d"])
    assert (cfg.corpus.root, cfg.corpus.train, cfg.corpus.dev) == ("/d/squad", "train-v1.1.json", "dev-v1.1.json")
    assert cfg.corpus._target_ == f"latentwire.data.{Squad.__name__}"
