"""Asynchronous, staleness-guided multimodal learning."""

from callbacks.beginning import begin

begin()
