"""What is measured on the dense and on the pruned model: task metrics, perplexity, fidelity.

May use: data, entry, metrics, models, progress.
"""
