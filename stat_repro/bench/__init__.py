"""How long compression takes, against its bare forward passes and the authors' way.

`python -m stat_repro.bench --help`; its records are the study `speed`.

May use: api, calibration, config, cost, entry, measure, models, paths, progress, results, scratch,
sharded, surgery.
"""
