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
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false", "callbacks.progress=null", "acceptance=null"),
    *("lr_schedule.warmup_steps=0", "callbacks.checkpoint.every_n_steps=2"),
]
CASES = [
    Case("latentwire.run", ["-m", "latentwire.run", *RUN], of_runs),
    Case(
        "latentwire.run in parts",
        ["-m", "latentwire.run", *RUN, "loader.batch_size=4", "loader.accumulate=2", "codec=int8", "codec.group=8"],
        of_runs,
    ),
    Case(
        "latentwire.pretrain",
        ["-m", "latentwire.pretrain", "lm=pocket_llama", f"paths.runs={FOLDER}/runs"],
        of_files("runs/pretrain/*/model/*"),
    ),
]
