"""What the layers compute on the calibration set, reduced to the statistics that pruning needs.

May use: linalg, models, parallel, plan, progress.
"""
