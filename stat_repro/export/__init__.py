"""Pruned models in the forms of other programs: GGUF for llama.cpp, ONNX, folders of stock classes.

May use: entry, models, scratch, surgery.
"""
