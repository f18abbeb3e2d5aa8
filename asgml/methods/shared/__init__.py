"""Holds what several methods share, one file per notion; a method imports from here and from `base` only."""
