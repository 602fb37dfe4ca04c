from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from attention_studio.utils.config import (
    ENV_PREFIX,
    ConfigError,
    Settings,
    environment_names,
    load_settings,
)

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX) or name in ("MAX_VRAM_GB", "HF_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)


def test_defaults_need_no_environment() -> None:
    settings = load_settings(None)
    assert settings.device == "auto"
    assert settings.cache_dir.is_absolute()
    assert settings.cache_dir != settings.state_dir
    assert settings.hf_token is None
    assert settings.secrets() == ()
    assert settings.thread_count >= 1


def test_environment_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tmp_path / ".env"
    env.write_text("ATTENTION_STUDIO_DEVICE=cpu\nATTENTION_STUDIO_THREADS=3\n")
    monkeypatch.setenv("ATTENTION_STUDIO_THREADS", "5")
    settings = load_settings(env)
    assert (settings.device, settings.threads, settings.thread_count) == ("cpu", 5, 5)


@pytest.mark.parametrize("name", ["MAX_VRAM_GB", "ATTENTION_STUDIO_MAX_VRAM_GB"])
@pytest.mark.parametrize("through_file", [True, False])
def test_shared_names_work(
    name: str, through_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tmp_path / ".env"
    env.write_text(f"{name}=7.5\n" if through_file else "")
    if not through_file:
        monkeypatch.setenv(name, "7.5")
    assert load_settings(env).max_vram_gb == 7.5


def test_own_name_beats_shared_name_and_argument_beats_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_VRAM_GB", "4")
    monkeypatch.setenv("ATTENTION_STUDIO_MAX_VRAM_GB", "2")
    assert load_settings(None).max_vram_gb == 2
    assert Settings(_env_file=None, max_vram_gb=1).max_vram_gb == 1  # type: ignore[call-arg]


def test_empty_value_means_default(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("ATTENTION_STUDIO_MAX_RAM_GB=\nATTENTION_STUDIO_HF_TOKEN=\n")
    settings = load_settings(env)
    assert settings.max_ram_gb is None
    assert settings.hf_token is None


def test_token_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    settings = load_settings(None)
    assert isinstance(settings.hf_token, SecretStr)
    assert "verysecret" not in repr(settings)
    assert "verysecret" not in settings.model_dump_json()
    assert settings.secrets() == ("hf_verysecret",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATTENTION_STUDIO_DEVICE", "toaster"),
        ("ATTENTION_STUDIO_DTYPE", "int3"),
        ("ATTENTION_STUDIO_THREADS", "many"),
        ("ATTENTION_STUDIO_MAX_VRAM_GB", "-1"),
        ("ATTENTION_STUDIO_LOG_LEVEL", "LOUD"),
        ("ATTENTION_STUDIO_HF_ENDPOINT", "not an address"),
    ],
)
def test_bad_value_names_key_and_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(None)
    assert name in str(caught.value)
    assert value in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "https://",
        "https://host/v1?key=verysecret",
        "https://me:verysecret@host/v1",
        "https://host:0/v1",
        "https://host:99999/v1",
    ],
)
def test_address_of_the_endpoint_is_a_plain_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTION_STUDIO_AGENT_URL", url)
    with pytest.raises(ConfigError, match="ATTENTION_STUDIO_AGENT_URL") as caught:
        load_settings(None)
    assert "@" not in url or "verysecret" not in str(caught.value)


def test_key_of_the_endpoint_is_secret_and_fits_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTION_STUDIO_AGENT_KEY", " sk-verysecret\n")
    settings = load_settings(None)
    assert settings.secrets() == ("sk-verysecret",)
    assert "verysecret" not in settings.model_dump_json()
    monkeypatch.setenv("ATTENTION_STUDIO_AGENT_KEY", "sk-verysecret\r\nX-Evil: 1")
    with pytest.raises(ConfigError, match="AGENT_KEY") as caught:
        load_settings(None)
    assert "verysecret" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_bytes(b"ATTENTION_STUDIO_DEVICE=\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(env)


def test_example_documents_every_key_and_nothing_else() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    listed = set(re.findall(r"^#?([A-Z_]+)=", text, flags=re.MULTILINE))
    expected = {environment_names(field)[0] for field in Settings.model_fields}
    assert listed == expected
    for field in Settings.model_fields:
        for name in environment_names(field):
            assert name in text


def test_example_is_valid_and_changes_nothing(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text(re.sub(r"^#([A-Z_]+=)", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.M))
    assert load_settings(env) == load_settings(None)


def test_settings_load_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, attention_studio.utils.config, attention_studio.utils.logging,"
        "attention_studio.utils.files, attention_studio.core.model_records,"
        "attention_studio.core.model_sources;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
