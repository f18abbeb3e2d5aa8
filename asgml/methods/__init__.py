"""One file per published method; the hooks they may use are in `base`."""
