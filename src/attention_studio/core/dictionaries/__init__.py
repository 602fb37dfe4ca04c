"""Sparse dictionaries: modules, activation functions, and their files."""
