# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .avdigits import AVDigits as AVDigits
from .ave import Ave as Ave
from .cremad import CremaD as CremaD
from .cremad_mini import CremadMini as CremadMini
from .csv_table import CsvTable as CsvTable
from .datamodule import MultimodalData as MultimodalData
from .features import Features as Features
from .kinetics_sounds import KineticsSounds as KineticsSounds
from .spec import DataSpec as DataSpec
from .spec import ModalitySpec as ModalitySpec
from .spec import Source as Source
from .spec import Split as Split
from .spec import Table as Table
