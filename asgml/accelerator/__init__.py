"""What asgml asks an accelerator; importing this package registers it with `suite.accelerator`."""

from asgml.accelerator.compiled import COMPILED
from asgml.accelerator.modes import MODES
from asgml.accelerator.pinned import PINNED
from asgml.accelerator.precision import PRECISION
from asgml.accelerator.synchronisations import SYNCHRONISATIONS
from suite.accelerator.section import register

register("asgml", [PRECISION, SYNCHRONISATIONS, PINNED, MODES, COMPILED])
