"""`python -m asgml.theory`: the prime learning window in closed form and as simulated; see `asgml.theory.page`."""

from asgml.theory.page import main

main()
