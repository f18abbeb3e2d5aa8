"""What a wire is seen to do while it trains: its latents, its answers, and whether the loss can be right at all."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
