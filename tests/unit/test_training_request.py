"""A run's description beside its checkpoints: whoever reads it can go on with the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attention_studio.core.training_config import TrainConfig, TrainSettingsError
from attention_studio.core.training_request import (
    RUN_FILE,
    RunFileError,
    TrainRequest,
    read_request,
)


def request(out: Path, **settings: object) -> TrainRequest:
    return TrainRequest(
        model="smollm2-135m",
        sources=("samples:10",),
        heldout_sources=(),
        settings=(("layers", (0, 2)), *settings.items()),
        out_dir=out,
    )


def test_what_is_read_is_what_was_written_with_every_default_spelt_out(tmp_path: Path) -> None:
    asked = request(tmp_path / "run", k=7)
    asked.write()
    found = read_request(tmp_path / "run")
    assert found.resume
    assert (found.model, found.sources) == ("smollm2-135m", ("samples:10",))
    assert found.config() == asked.config() == TrainConfig(layers=(0, 2), k=7)
    assert dict(found.settings).keys() == TrainConfig.model_fields.keys()


def test_paths_stay_right_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("words")
    monkeypatch.chdir(tmp_path)
    asked = TrainRequest("m", ("text.txt",), (), (("layers", (0,)),), Path("run"))
    asked.write()
    monkeypatch.chdir("/")
    assert read_request(tmp_path / "run").sources == (str(tmp_path / "text.txt"),)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 1, "settings": 3, "sources": []}'])
def test_a_damaged_description_is_refused_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(RunFileError, match="run"):
        read_request(tmp_path)


def test_no_description_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="no run that can be resumed"):
        read_request(tmp_path)


def test_settings_that_do_not_go_together_name_the_field(tmp_path: Path) -> None:
    request(tmp_path).write()
    stored = json.loads((tmp_path / RUN_FILE).read_text())
    stored["settings"]["k"] = 0
    (tmp_path / RUN_FILE).write_text(json.dumps(stored))
    with pytest.raises(TrainSettingsError, match="k: "):
        read_request(tmp_path).config()


def test_what_a_cross_layer_transcoder_cannot_do_is_refused(tmp_path: Path) -> None:
    assert request(tmp_path, skip=True).config()
    with pytest.raises(TrainSettingsError, match="a cross-layer transcoder"):
        request(tmp_path, mlp="clt", skip=True).config()


@pytest.mark.parametrize("mlp", ["transcoder", "clt"])
def test_only_what_ranks_latents_can_rank_them_by_norm(tmp_path: Path, mlp: str) -> None:
    config = request(tmp_path, mlp=mlp, norm_aware=True).config()
    assert config.transcoder(8).norm_aware and config.clt(8).norm_aware
    with pytest.raises(TrainSettingsError, match="norm_aware is for topk and batchtopk"):
        request(tmp_path, mlp=mlp, norm_aware=True, activation="relu").config()
