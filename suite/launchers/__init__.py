"""Who runs the jobs of a command line in place of its own process: processes of this machine, or SLURM."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
