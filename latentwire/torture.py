"""Commands of latentwire that may be killed anywhere: `python -m suite.torture latentwire`."""

from __future__ import annotations

from suite.torture.case import FOLDER, Case
from suite.torture.left import of_files, of_runs

RUN = [
    *("experiment=pocket_smoke", f"paths.runs={FOLDER}/runs", f"paths.cache={FOLDER}/cache"),
    *("encoder.width=16", "encoder.max_tokens=128", "encoder.refiner_layers=1", "wire.d_z=8", "wire.slots=3"),
    *("wire.measured_texts=4", "corpus.facts_per_person=2", "corpus.train=200", "loader.batch_size=3"),
    *("loader.questions=2", "loader.steps_per_epoch=6", "loader.eval_passages=4", "loader.eval_questions=2"),
    *("loader.eval_batch_size=4", "loader.eval_max_new_tokens=3", "evaluation.passages=3", "evaluation.n_boot=40"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false", "callbacks.progress=null"),
    *("lr_schedule.warmup_steps=0", "callbacks.checkpoint.every_n_steps=2", "callbacks.uniform_bound=null"),
]
IN_PARTS = [
    *("loader.batch_size=4", "loader.accumulate=2", "loader.workers=2", "codec=int8", "codec.group=8"),
]
PRETRAIN = [
    *("lm=pocket_llama", f"paths.runs={FOLDER}/runs", "pocket.architecture.width=16", "pocket.architecture.layers=1"),
    *("pocket.architecture.inner=16", "pocket.recipe.repeat_steps=12", "pocket.recipe.repeat_rows=4"),
    *("pocket.recipe.steps=12", "pocket.recipe.cooldown=6", "pocket.recipe.rows=4", "pocket.eval_contexts=4"),
]
CASES = [
    Case("latentwire.run", ["-m", "latentwire.run", *RUN], of_runs),
    Case(
        "latentwire.run in parts with workers",
        ["-m", "latentwire.run", *RUN, *IN_PARTS],
        of_runs,
    ),
    Case(
        "latentwire.pretrain",
        ["-m", "latentwire.pretrain", *PRETRAIN],
        of_files("runs/pretrain/*/model/*.safetensors", "runs/pretrain/*/model/*.json"),
    ),
]
