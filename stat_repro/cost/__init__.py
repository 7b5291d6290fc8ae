"""What a model costs: counted (MACs, parameters, bytes on disk) and measured (latency, memory).

May use: allocation, config, measure, models, progress.
"""
