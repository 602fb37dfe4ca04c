"""On a screen with two pixels to a point everything is drawn with twice the pixels, and found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ratio", [2.0, pytest.param(1.5, marks=pytest.mark.slow)])
def test_pictures_have_the_pixels_of_the_screen(tmp_path: Path, ratio: float) -> None:
    # The pixel ratio is fixed when an application starts: so it is another process.
    done = subprocess.run(
        [sys.executable, "-m", "tests.ui.hidpi_scene", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "QT_SCALE_FACTOR": str(ratio)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ratio"] == ratio
    pictures = {**told["docks"], "graph cache": told["graph"], "heads": told["heads"]}
    assert len(pictures) > 20
    for name, (points, pixels, of_picture) in pictures.items():
        assert of_picture == ratio, name
        assert pixels == pytest.approx([ratio * side for side in points], abs=1), name
    points, of_picture = told["minimap"]
    assert of_picture == ratio and 40 < points[1] <= 108 and 80 < points[0] <= 176
    # The pointer meets what it is on.
    assert len(told["met"]) > 10
    for name, hovered, selected in told["met"]:
        assert name == hovered == selected
    assert told["head"][0] == told["head"][1]
    assert told["cell"] == [2, 4]
    assert told["icons"] > 10 and not told["blurred"]
