"""Commands of the feedback program that may be killed anywhere: `python -m suite.torture asgml.feedback`."""

from __future__ import annotations

from suite.torture.case import FOLDER, Case
from suite.torture.left import of_runs

RUN = [
    *("experiment=surfaces", f"paths.runs={FOLDER}/runs", f"paths.data={FOLDER}/data"),
    *("data.classes=[wood,weave,tiles]", "data.test_classes=[tiles]", "data.good=3", "data.per_defect=2"),
    *("size=16", "clip.image_size=16", "clip.image_dim=16", "clip.text_dim=16", "clip.blocks=2", "clip.heads=2"),
    *("heads=2", "loops=2", "stages.text.epochs=2", "stages.text.batch_size=4", "stages.text.surgery=2"),
    *("stages.image.epochs=2", "stages.image.batch_size=3", "stages.image.halve_at=[2]"),
    *("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "callbacks.progress=null"),
    *("callbacks.share.every=3", "callbacks.checkpoint.every_n_steps=2"),
]
CASES = [
    Case("asgml.feedback.run", ["-m", "asgml.feedback.run", *RUN], of_runs),
    Case("asgml.feedback.run with workers", ["-m", "asgml.feedback.run", *RUN, "loader.workers=2"], of_runs),
]
