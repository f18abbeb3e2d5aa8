"""Tables and report sections of wires; importing it registers the sections."""

from latentwire.report import wires

__all__ = ["wires"]
