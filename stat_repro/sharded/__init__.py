"""Pruning a checkpoint that is larger than memory, layer by layer, from disk to disk.

`compress` is the Python call, `python -m stat_repro.sharded` the command.

May use: api, calibration, config, data, entry, measure, methods, models, parallel, plan, report,
surgery.
"""
