"""Lightning callbacks of the suite, each usable in any Lightning project."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
