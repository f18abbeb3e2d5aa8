"""Training in two stages: the Lightning module, its data and the clock of the stages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
