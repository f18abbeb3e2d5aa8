"""Named studies of latentwire (see `suite.study`).

python -m latentwire.study wire_demo    # the second half of `make demo`: two minutes
python -m latentwire.study pocket       # `make pocket`: 4x, 8x, 16x and a soft prefix, three seeds; hours
"""

from __future__ import annotations

from latentwire.run import Tree, dead, train
from suite.study import Program, Study, main

PROGRAM = Program("latentwire", train, dead, Tree)
DEEP = ("label=4x deep_prefix", "wire.ratio=4")
SOFT = ("label=4x soft_prefix", "injector=soft_prefix", "curriculum=from_text", "trainer.max_epochs=18")
EIGHT = ("label=8x deep_prefix", "wire.ratio=8", "curriculum=ratio", "trainer.max_epochs=20")
SIXTEEN = ("label=16x deep_prefix", "wire.ratio=16", "curriculum=ratio_16", "trainer.max_epochs=30")
BITS = (
    "label=8x rvq 16 bits",
    "+wire.start_from=<8x deep_prefix>",
    "wire.ratio=8",
    "codec=rvq",
    "codec.stages=2",
    "wire.measured_texts=1024",
    "trainer.max_epochs=20",
)
STUDIES = {
    "wire_demo": Study(
        "pocket_smoke", (0,), (("label=4x deep_prefix", "wire.ratio=4"), ("label=8x deep_prefix", "wire.ratio=8"))
    ),
    "pocket": Study("pocket", (0, 1, 2), (DEEP, SOFT, EIGHT, SIXTEEN, BITS)),
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
