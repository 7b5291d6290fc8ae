"""What is measured on the dense and on the pruned model: task metrics, perplexity, fidelity.

May use: assets, data, entry, metrics, models, progress.
"""
