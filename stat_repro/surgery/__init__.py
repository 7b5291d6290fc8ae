"""Making the smaller model: selecting rows, replacing consumers, saving and loading the result.

May use: config, models, paths, plan, scratch.
"""
