# Public names: what YAML, run identities and users write. A module may move, its names stay.
from .loops import AnomalyMetrics as AnomalyMetrics
from .pixels import PixelHistogram as PixelHistogram
