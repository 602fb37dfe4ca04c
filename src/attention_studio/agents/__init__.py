"""Agents: language models that explain features and circuits through tools whose results count.

No Qt here. What a model says is data: it reaches the studio only as arguments that a tool's own
types accept.
"""
