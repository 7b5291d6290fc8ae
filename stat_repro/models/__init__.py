"""What the supported architectures look like, their pruned classes, and loading checkpoints.

May use: assets, config, plan.
"""
