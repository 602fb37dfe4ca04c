"""Dictionaries of other tools: circuit-tracer, SAELens, sparsify, Llamascopium.

Only safetensors, JSON and YAML are read, never pickles, and nothing outside the folder that is
given. What computes something else here than there is refused in words.
"""
