"""The Python console: ``interpreter`` runs statements, ``session_view`` is what they see."""
