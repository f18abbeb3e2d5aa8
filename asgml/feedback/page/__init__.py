"""`docs/results/feedback.md`: the studies of the feedback system, run and read."""
