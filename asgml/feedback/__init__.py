"""Cross-attention feedback between the towers of a frozen CLIP, for anomaly detection on surfaces."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
