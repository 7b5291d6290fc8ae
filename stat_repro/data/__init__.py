"""Reading data sets: GLUE, SQuAD, running text, packaged sets and the user's own files.

May use: assets, config, entry.
"""
