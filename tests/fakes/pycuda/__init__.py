"""A strict stand-in for pycuda: only what an engine needs, and every misuse is noted (see fake_gpu)."""

VERSION = (2026, 1)
VERSION_TEXT = "2026.1"
