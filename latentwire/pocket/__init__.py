"""The pocket language models: made, trained, stored and loaded by this package; and one that others have made."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
