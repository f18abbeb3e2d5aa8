"""The stages of a step, one idea each."""
