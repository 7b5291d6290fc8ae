"""What a model costs: counted (MACs, parameters, bytes on disk) and measured (latency, memory).

May use: allocation, assets, config, measure, models, paths, plan, progress, surgery.
"""
