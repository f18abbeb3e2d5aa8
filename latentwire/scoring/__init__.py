"""Scores, baselines compared, and their intervals: numbers only."""
