"""Scores, baselines and their intervals."""
