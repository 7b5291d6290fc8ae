"""From records to tables and figures. No torch; matplotlib is imported only to draw.

May use: config, paths, results, scratch.
"""
