"""The page beside the line: watch it, judge blind, learn. A process of its own that only reads what the line writes."""
