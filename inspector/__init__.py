"""inspector: an inline inspection daemon. Every trigger gets exactly one answer; a PASS is earned."""

__version__ = "0.1.0"
