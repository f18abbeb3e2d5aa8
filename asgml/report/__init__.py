"""Tables and report sections of multimodal runs; importing it registers the sections."""

from asgml.report import multimodal

__all__ = ["multimodal"]
