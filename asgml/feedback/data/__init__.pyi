# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .dataset import SurfaceDataset as SurfaceDataset
from .folders import SurfaceFolders as SurfaceFolders
from .generator import write_surfaces as write_surfaces
from .layouts import read_jsonl as read_jsonl
from .layouts import read_mvtec as read_mvtec
from .layouts import read_visa as read_visa
from .protocol import divide as divide
from .protocol import few_shot as few_shot
from .protocol import zero_shot as zero_shot
from .rendered import RenderedSurfaces as RenderedSurfaces
from .sample import Sample as Sample
from .sources import Splits as Splits
