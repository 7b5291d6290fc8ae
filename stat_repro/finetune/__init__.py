"""Training a task head for an encoder that has none: the recipe, the loop, its examples.

May use: assets, config, data, evaluation, models, paths, progress, scratch.
"""
