"""Event filters that end before their objects do."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from PySide6.QtCore import QObject
from shiboken6 import isValid

_watched_by: WeakKeyDictionary[QObject, WeakSet[QObject]] = WeakKeyDictionary()


def watch(watcher: QObject, *watched: QObject) -> None:
    """Let ``watcher.eventFilter`` see the events of others until :func:`end_watching`."""
    for one in watched:
        one.installEventFilter(watcher)
    _watched_by.setdefault(watcher, WeakSet()).update(watched)


def end_watching() -> None:
    """Take every filter away, once the event loop has ended.

    While a window is taken apart Qt still sends events, and the collector may have emptied the
    watcher by then: its filter would find none of its own attributes.
    """
    for watcher, watched in list(_watched_by.items()):
        for one in list(watched):
            if isValid(watcher) and isValid(one):
                one.removeEventFilter(watcher)
    _watched_by.clear()
