"""Pages in the window: ``python window_pages.py STORE PAGES SEED``; answers in JSON.

The studio's own window without a display, the list of all features with its detail in front. Timed
is from choosing a feature to the end of the painting that shows its page, texts included. What the
list beside it does afterwards, scrolling there and reading its rows, is awaited before the next.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Optional

from PySide6.QtCore import QEvent, QEventLoop, QObject
from PySide6.QtWidgets import QApplication
from read_pages import Clock, drawn, forget

from attention_studio.core.feature_store import FeatureStore
from attention_studio.ui.app import SWITCH_INTERVAL_S, build_studio
from attention_studio.ui.widgets.feature_detail import FeatureDetail
from attention_studio.utils.config import Settings

_LONGEST_S = 20.0
_TURNS = 6
"""Of the event loop, after which nothing is left to be done."""
_MORE = QEventLoop.ProcessEventsFlag.WaitForMoreEvents


class Painted(QObject):
    """Knows whose texts the detail painted last."""

    def __init__(self, detail: FeatureDetail) -> None:
        super().__init__()
        self._detail = detail
        self.feature: Optional[tuple[object, int]] = None
        detail.examples.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Take down what is painted; it is when the events are done with."""
        view = self._detail.view
        if event.type() == QEvent.Type.Paint and view is not None and view.page is not None:
            self.feature = (view.site, view.index)
        return False


def main() -> None:
    """Choose features one after the other."""
    folder, n, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = QApplication.instance() or QApplication([])
    assert isinstance(app, QApplication)
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(cache_dir=Path(place) / "cache", state_dir=Path(place) / "state")
        studio = build_studio(settings)
        studio.window.resize(1600, 1000)
        studio.window.show()
        forget(folder)
        store = FeatureStore.open(folder)
        features = [store.ids(limit=1, offset=number)[0] for number in drawn(store, n, seed)]
        studio.session.set_store(store)
        dock = studio.window.features_dock
        dock.show()
        dock.raise_()
        painted = Painted(dock.detail)

        def rest() -> None:
            """Wait for what the list asks for, and asks for then, and paints."""
            for _ in range(_TURNS):
                app.processEvents()
                while studio.runner.busy or dock.list.awaits_row:
                    app.processEvents(_MORE)

        rest()
        clock = Clock()
        for feature in features:
            clock.start()
            studio.session.set_feature(feature)
            while painted.feature != feature:
                app.processEvents(_MORE)
                if clock.running() > _LONGEST_S:
                    sys.exit("the page does not come")
            clock.stop()
            assert dock.detail.examples.isVisible()
            rest()
        found = clock.summary(store.about.n_features)
        studio.session.set_store(None)
        while studio.runner.busy:
            app.processEvents(_MORE)
        studio.window.close()
        studio.runner.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
