"""Lightning callbacks of the suite, each usable in any Lightning project."""
