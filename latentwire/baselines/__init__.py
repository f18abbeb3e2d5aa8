"""Baselines: what else could fill M places, read through the same prompts and the same scorer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
