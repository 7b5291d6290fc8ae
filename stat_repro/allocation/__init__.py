"""What units cost and how many each layer keeps: costs, scores, sizes. NumPy only, no tensors.

May use: config, models, plan.
"""
