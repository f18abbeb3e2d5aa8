"""Reports: run directories in; a terminal table, an HTML page with its library beside it, Markdown and LaTeX out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
