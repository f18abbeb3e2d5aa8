"""Holds one file per published method; the hooks they may use are in `base`, what several share in `shared`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
