"""Putting more than one form of a thing on the clipboard."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QStringListModel
from PySide6.QtGui import QGuiApplication, QImage


def copy_picture(image: QImage, forms: Mapping[str, bytes]) -> None:
    """Put an image on the clipboard, and the same in other forms (by MIME type) beside it."""
    # A QMimeData made in Python asks the interpreter when it is destroyed. The clipboard keeps it
    # until the process ends, when there is no interpreter any more: the program would crash on
    # leaving. One that Qt itself has made does not ask.
    model = QStringListModel([""])
    data = model.mimeData([model.index(0)])
    for form in data.formats():
        data.removeFormat(form)
    data.setImageData(image)
    for form, content in forms.items():
        data.setData(form, content)
    QGuiApplication.clipboard().setMimeData(data)
