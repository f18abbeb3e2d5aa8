"""The configuration reference: every key of every program with meaning, type and default, read from where it stands."""
