"""Task metrics: plain functions (`scores`, `answers`) and `evaluate.Metric` classes (`modules`).

May use: nothing.
"""
