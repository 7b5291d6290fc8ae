"""How long compression takes, against its bare forward passes and the authors' way.

`python -m stat_repro.bench --help`; its records are the study `speed`.

May use: api, calibration, cost, measure, models, paths, progress, results, sharded, surgery.
"""
