"""A candidate engine over the archive: what it would have said of every part, against what was said."""
