"""`docs/results/pocket.md`: the study of wires on generated biographies, read."""
