"""The window. It gets numpy arrays and frozen records, never tensors."""
