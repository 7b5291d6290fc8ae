"""Pruning methods: which units are kept, and what the kept ones take over from the removed ones.

May use: allocation, calibration, config, linalg, measure, models, parallel, plan, progress,
scratch, surgery.
"""
