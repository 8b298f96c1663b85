"""Judging by people: what is judged, by whom, and what is learned from it."""
