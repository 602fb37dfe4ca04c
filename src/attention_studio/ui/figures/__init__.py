"""Figures: pictures of what the views show, for papers, slides and files.

``figure`` says what a figure is, ``style`` how it is to look, ``render`` makes files of it; the
others are the kinds of figures that views give.
"""
