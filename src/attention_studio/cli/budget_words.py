"""What commands that ask a chat model can be told of how much they may use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from attention_studio.cli.console import positive
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.agents.backends.records import Backend
    from attention_studio.agents.budget import Meter


def add_budget_words(sub: argparse.ArgumentParser) -> None:
    """The bounds of a run; those that are left out are the settings'."""
    sub.add_argument("--max-tokens", type=positive, help="tokens the model may use, in and out")
    sub.add_argument("--max-calls", type=positive, help="questions to the model")
    sub.add_argument("--max-seconds", type=float, help="time for the model")
    sub.add_argument("--max-cost", type=float, help="money, where prices are set")


def meter_of(arguments: argparse.Namespace, settings: Settings, backend: Backend) -> Meter:
    """The budget of a run that asks ``backend``, and what counts it."""
    from attention_studio.agents.budget import Budget, Meter

    told = Budget.from_settings(settings)
    budget = Budget(
        arguments.max_tokens or told.max_tokens,
        arguments.max_calls or told.max_calls,
        arguments.max_seconds or told.max_seconds,
        arguments.max_cost or told.max_cost,
    )
    return Meter(budget, backend.price)
