"""Settings of one machine and one person: from the environment and a ``.env`` file.

Every key is documented in ``.env.example``. Secrets are ``SecretStr``: they print as stars, and
``utils.logging`` takes their values out of anything that is logged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Optional
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from attention_studio.utils.errors import StudioError
from attention_studio.utils.paths import default_cache_dir, default_state_dir

ENV_PREFIX = "ATTENTION_STUDIO_"

# Settings that other tools also know under a shorter name.
_PLAIN_NAMES = {"max_vram_gb": "MAX_VRAM_GB", "hf_token": "HF_TOKEN", "hf_endpoint": "HF_ENDPOINT"}


class ConfigError(StudioError):
    """A setting has a value that cannot be used."""


def _aliases(field: str) -> AliasChoices:
    # The first name that is set wins, so the studio's own name beats the shared one. The bare
    # field name is there for ``Settings(max_vram_gb=…)`` and comes last.
    return AliasChoices(ENV_PREFIX + field.upper(), _PLAIN_NAMES[field], field)


class Settings(BaseSettings):
    """All settings, with their defaults. Immutable: make a new one to change something."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    cache_dir: Path = Field(
        default_factory=default_cache_dir, description="Models and activations are kept here."
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Window layout, logs and workspaces without a place of their own.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|spread|cuda(:\d+)?)$",
        description="auto (CUDA, then MPS, then CPU), cpu, mps, cuda, cuda:N or spread.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto takes float32 where it fits and bfloat16 elsewhere."
    )
    max_vram_gb: Optional[float] = Field(
        default=None,
        gt=0,
        validation_alias=_aliases("max_vram_gb"),
        description="Use at most this much memory of each GPU, in GiB.",
    )
    max_ram_gb: Optional[float] = Field(
        default=None, gt=0, description="Use at most this much main memory, in GiB."
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="CPU threads for tensors; 0 is all cores but one."
    )
    offline: bool = Field(default=False, description="Never open a network connection.")
    network_timeout: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds without a byte after which the network counts as gone.",
    )
    hf_endpoint: str = Field(
        default="https://huggingface.co",
        pattern=r"^https?://\S+$",
        validation_alias=_aliases("hf_endpoint"),
        description="Address of the model hub or of a mirror.",
    )
    hf_token: Optional[SecretStr] = Field(
        default=None,
        validation_alias=_aliases("hf_token"),
        description="Access token of the model hub, for gated and private models.",
    )
    agent_url: Optional[str] = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Address of a chat endpoint for agents, up to and with its version, such as "
        "http://127.0.0.1:11434/v1. Without one, agents use a model in this process.",
    )
    agent_model: Optional[str] = Field(
        default=None, min_length=1, description="Which of the endpoint's models agents ask."
    )
    agent_key: Optional[SecretStr] = Field(
        default=None, description="Key for the endpoint. Sent to its host alone, never logged."
    )
    agent_local_model: str = Field(
        default="smollm2-135m",
        min_length=1,
        description="The chat model in this process that agents use without an endpoint: a name, "
        "a hub id, a folder or a .gguf file.",
    )
    agent_timeout: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="Seconds in which the endpoint sends nothing after which it counts as gone.",
    )
    agent_price_in: Optional[float] = Field(
        default=None, ge=0, description="What a million tokens sent to the endpoint cost."
    )
    agent_price_out: Optional[float] = Field(
        default=None, ge=0, description="What a million tokens that it answers cost."
    )
    agent_max_tokens: int = Field(
        default=500_000, gt=0, description="Tokens that one run of an agent may use, in and out."
    )
    agent_max_calls: int = Field(
        default=1000, gt=0, description="How often one run of an agent may ask its model."
    )
    agent_max_seconds: float = Field(
        default=3600.0, gt=0, description="How long one run of an agent may take."
    )
    agent_max_cost: Optional[float] = Field(
        default=None,
        ge=0,
        description="What one run of an agent may cost, in the currency of the prices.",
    )
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least level that reaches the log file and the Log dock."
    )

    @field_validator("cache_dir", "state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("hf_endpoint")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("agent_url")
    @classmethod
    def _plain_address(cls, value: Optional[str]) -> Optional[str]:
        if value is None:
            return None
        parts = urlsplit(value)
        if not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
            raise ValueError("it has to be a host and a path, without ? and #")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"it holds a password; set {ENV_PREFIX}AGENT_KEY instead")
        return value.rstrip("/")

    @field_validator("agent_key")
    @classmethod
    def _fits_a_header(cls, value: Optional[SecretStr]) -> Optional[SecretStr]:
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("it holds characters that no key has")
        return SecretStr(key)

    @property
    def thread_count(self) -> int:
        """CPU threads to use: ``threads``, or all cores but one, and never less than one."""
        return self.threads or max(1, usable_cores() - 1)

    def secrets(self) -> tuple[str, ...]:
        """The secret values themselves, for taking them out of logs."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return tuple(v.get_secret_value() for v in values if isinstance(v, SecretStr))


_SECRETS = {name for name, one in Settings.model_fields.items() if "Secret" in str(one.annotation)}


def environment_names(field: str) -> tuple[str, ...]:
    """The environment variables that set ``field``, the strongest first."""
    own = ENV_PREFIX + field.upper()
    return (own, _PLAIN_NAMES[field]) if field in _PLAIN_NAMES else (own,)


def load_settings(env_file: Optional[Path] = Path(".env")) -> Settings:
    """Read the settings from the environment and from ``env_file`` (None: environment only).

    Raises:
        ConfigError: a value cannot be used, or the file cannot be read as text. The error names
            the key and never shows the value of a secret.
    """
    try:
        # mypy knows the fields of Settings but not the options of BaseSettings.
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise _config_error(error) from None  # the cause would print the raw values
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The settings file {env_file} cannot be read",
            str(error) if isinstance(error, OSError) else "it is not UTF-8 text",
            "Fix or remove it; .env.example shows the form",
        ) from None


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_context=False)[0]
    loc = str(first["loc"][0]) if first["loc"] else "?"
    field = next(
        (name for name in Settings.model_fields if loc in (name, *environment_names(name))), loc
    )
    key = loc if loc != field else environment_names(field)[0]
    # Some people write passwords into addresses.
    hidden = field in _SECRETS or (field == "agent_url" and "@" in str(first["input"]))
    shown = "" if hidden else f" (it is {first['input']!r})"
    return ConfigError(
        f"The setting {key} cannot be used{shown}",
        first["msg"],
        "Correct it in the environment or in .env; .env.example explains every key",
    )


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
