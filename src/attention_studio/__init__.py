"""AttentionStudio: look inside language models with complete replacement models."""

__version__ = "0.1.0"
