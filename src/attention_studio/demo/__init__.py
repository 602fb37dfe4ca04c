"""The demo: a little world, text about it whose truth is known, and the model trained on that text.

The text comes from a seeded grammar. Every sample carries its own ground truth (which earlier
tokens decide which prediction, and through what), so that what the studio says about the model can
be checked against what is true by construction.
"""
