"""Filters end with the event loop, before what they look at is gone."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QEvent, QObject

from attention_studio.ui.event_filters import end_watching, watch


class Watcher(QObject):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[QEvent.Type] = []

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802
        self.seen.append(event.type())
        return False


def test_nothing_is_seen_after_the_end(qapp: QCoreApplication) -> None:
    one, other, watcher = QObject(), QObject(), Watcher()
    watch(watcher, one)
    watch(watcher, other)
    for watched in (one, other):
        QCoreApplication.sendEvent(watched, QEvent(QEvent.Type.User))
    assert watcher.seen == [QEvent.Type.User] * 2
    end_watching()
    # As a collector leaves it: the object is there, its attributes are not.
    vars(watcher).clear()
    for watched in (one, other):
        QCoreApplication.sendEvent(watched, QEvent(QEvent.Type.User))
    assert not hasattr(watcher, "seen")


def test_objects_that_are_gone_are_passed_over(qapp: QCoreApplication) -> None:
    one, watcher = QObject(), Watcher()
    watch(watcher, one)
    del one
    end_watching()
