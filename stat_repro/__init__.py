"""Structured pruning of trained transformers without gradients (STAT and beyond)."""
