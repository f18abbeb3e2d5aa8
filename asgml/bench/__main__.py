"""`python -m asgml.bench`: what a step costs; see `asgml.bench.step_costs`."""

from asgml.bench.step_costs import main

main()
