"""Statistics of the activations on the calibration set, as far as pruning needs them.

May use: linalg, models, parallel, plan, progress.
"""
