"""One dock per file: the view and its Qt model."""
