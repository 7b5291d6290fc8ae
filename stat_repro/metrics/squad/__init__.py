"""Metric module; the script has the name of this folder, as `evaluate.load` wants it."""
