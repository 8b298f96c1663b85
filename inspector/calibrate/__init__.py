"""Calibration: where the part is, how it is lit, how large a pixel is, where the threshold stands."""
