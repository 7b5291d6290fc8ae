"""The supported architectures, their pruned classes, and loading checkpoints.

May use: assets, config, entry, plan, progress.
"""
