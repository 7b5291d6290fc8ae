"""Calibration: what the layers compute on the calibration set, reduced to what pruning needs."""
