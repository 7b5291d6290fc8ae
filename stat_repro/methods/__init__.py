"""Pruning methods, one file each, and the one literal registry of them."""
