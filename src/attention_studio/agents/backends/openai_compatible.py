"""Any chat endpoint that speaks the OpenAI protocol, over HTTP.

Every question has a connection of its own, on an event loop of its own: so a cancel reaches it at
any moment, the endpoint notices and stops writing, and any number of threads can ask at once.
Redirects are not followed: the key goes to the address that was set, and nowhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import ssl
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Optional
from urllib.parse import urljoin, urlsplit

import httpx2
from loguru import logger

from attention_studio import __version__
from attention_studio.agents.backends.chat_answer import Answer, EventLines, shown
from attention_studio.agents.backends.chat_request import (
    Dialect,
    Question,
    request_body,
    simpler,
)
from attention_studio.agents.backends.choosing import choose_in_writing
from attention_studio.agents.backends.endpoint_errors import SLOW, EndpointErrors, Refused
from attention_studio.agents.backends.event_loop import run_watched
from attention_studio.agents.backends.records import (
    BackendError,
    BackendOfflineError,
    BackendRequestError,
    BackendUnreachableError,
    Choice,
    Message,
    OnText,
    Price,
    Reply,
    ToolSpec,
)
from attention_studio.utils.config import Settings
from attention_studio.utils.logging import register_secret
from attention_studio.utils.outgoing import log_request, public_address
from attention_studio.utils.progress import WorkContext

_ATTEMPTS = 4
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0
_MAX_LINE = 1 << 20
_MAX_DIALECTS = 6
# Each token of a stream comes in an event of some hundred bytes.
_NO_PLACE = "one that cannot be read"
_MAX_BYTES, _MAX_BYTES_PER_TOKEN = 1 << 20, 2 << 10
_LEAST_SECRET = 8  # shorter keys are words such as "none", which endpoints of one's own accept


class OpenAICompatible:
    """A chat model behind an endpoint.

    Args:
        url: up to and with the version: ``/chat/completions`` is added.
        model: which of the endpoint's models.
        key: sent as a bearer token; None: none is sent.
        price: what tokens cost.
        connect_timeout: seconds for the connection.
        timeout: seconds in which nothing comes after which the endpoint counts as gone.
        answer_timeout: seconds after which an answer is given up, however lively it is.
        offline: refuse to ask.
        attempts: how often it is asked before a passing failure counts.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: Optional[str] = None,
        *,
        price: Optional[Price] = None,
        connect_timeout: float = 10.0,
        timeout: float = 120.0,
        answer_timeout: float = 1800.0,
        offline: bool = False,
        attempts: int = _ATTEMPTS,
    ) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._host = urlsplit(self._url).hostname or ""
        self._model, self._key, self._price = model, key, price
        self._errors = EndpointErrors(
            self._host, public_address(self._url), model, bool(key), timeout
        )
        self._timeouts = httpx2.Timeout(timeout, connect=connect_timeout)
        self._answer_timeout = answer_timeout
        self._offline, self._attempts = offline, attempts
        self._lock = threading.Lock()
        self._dialect = Dialect()
        self._tls: Optional[ssl.SSLContext] = None
        if key and len(key) >= _LEAST_SECRET:
            register_secret(key)
        if key and self._url.startswith("http:") and not _is_near(self._host):
            logger.warning(f"The key for {self._host} travels unencrypted: its address is http:")

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenAICompatible:
        """The endpoint that the settings name.

        Raises:
            BackendError: they name none, or none of its models.
        """
        if settings.agent_url is None:
            raise BackendError(
                "No chat endpoint is set",
                "",
                "Set ATTENTION_STUDIO_AGENT_URL and ATTENTION_STUDIO_AGENT_MODEL",
            )
        if settings.agent_model is None:
            raise BackendError(
                f"No model of {public_address(settings.agent_url)} is chosen",
                "",
                "Set ATTENTION_STUDIO_AGENT_MODEL",
            )
        key, price = settings.agent_key, None
        if settings.agent_price_in is not None or settings.agent_price_out is not None:
            price = Price(settings.agent_price_in or 0.0, settings.agent_price_out or 0.0)
        return cls(
            settings.agent_url,
            settings.agent_model,
            None if key is None else key.get_secret_value(),
            price=price,
            connect_timeout=settings.network_timeout,
            timeout=settings.agent_timeout,
            offline=settings.offline,
        )

    @property
    def name(self) -> str:
        """The model and the endpoint's host."""
        return f"{self._model} at {self._host}"

    @property
    def price(self) -> Optional[Price]:
        """What tokens cost, where it was set."""
        return self._price

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        max_tokens: int,
        temperature: float = 0.0,
        json_schema: Optional[Mapping[str, Any]] = None,
        seed: Optional[int] = None,
        ctx: WorkContext,
        on_text: Optional[OnText] = None,
    ) -> Reply:
        """See ``Backend.complete``. Not to be called where an event loop already runs.

        Passing failures (429, 5xx, lost connections) are tried again after a growing pause, or
        after the one that the endpoint asks for; an answer that broke off is asked for again unless
        ``on_text`` has already heard some of it.

        Raises:
            BackendError: one of its kinds (``agents.backends.records``), in words.
            Cancelled: through ``ctx``, within a tenth of a second.
        """
        if self._offline:
            raise BackendOfflineError(
                f"{self._host} was not asked",
                "the studio is set to work offline",
                "Set ATTENTION_STUDIO_OFFLINE=false to allow it, or use the model in this process",
            )
        ctx.check()
        question = Question(
            tuple(messages), tuple(tools), max_tokens, temperature, json_schema, seed
        )
        work = self._ask(question, ctx, on_text)
        return run_watched(work, ctx, self._answer_timeout, self._host)

    def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, ctx: WorkContext
    ) -> Choice:
        """See ``Backend.choose``. Asked for as JSON of an enumeration, where it takes schemas.

        Raises:
            JsonAnswerError: what it wrote is none of them.
            BackendError, Cancelled: as ``complete``.
        """
        return choose_in_writing(self, messages, options, ctx)

    # ---- one question, in dialects and attempts ------------------------------------------------

    async def _ask(self, question: Question, ctx: WorkContext, on_text: Optional[OnText]) -> Reply:
        dialect = self._dialect
        for _ in range(_MAX_DIALECTS):
            body = request_body(self._model, question, dialect)
            try:
                reply = await self._insist(body, question, ctx, on_text)
            except Refused as refused:
                other = None
                about_form = refused.status in (400, 422, 500, 501)
                # Routers know no model that understands all of the request.
                if about_form or (refused.status == 404 and "support" in refused.complaint):
                    other = simpler(dialect, refused.complaint, body)
                if other is None:
                    raise self._errors.refused(refused) from None
                logger.info(
                    f"{self._host} does not take the request as it is "
                    f"({refused.complaint or refused.status}); asking it in another form"
                )
                dialect = other
                continue
            if dialect != self._dialect:
                with self._lock:
                    self._dialect = dialect
            return reply
        raise BackendRequestError(f"{self._host} accepts no form of the request")

    async def _insist(
        self,
        body: Mapping[str, Any],
        question: Question,
        ctx: WorkContext,
        on_text: Optional[OnText],
    ) -> Reply:
        heard = False

        def hear(text: str) -> None:
            nonlocal heard
            if on_text is not None:
                heard = True
                on_text(text)

        for attempt in range(1, self._attempts + 1):
            wait: Optional[float] = None
            try:
                return await self._exchange(body, question, hear)
            except Refused as refused:
                # Some endpoints fail on schemas that they cannot follow, and always will.
                by_schema = refused.status == 500 and "response_format" in body and attempt > 1
                if not refused.passing or by_schema:
                    raise
                error: BackendError = self._errors.refused(refused, attempt)
                wait = refused.wait
            except BackendUnreachableError as lost:
                if heard or (attempt > 1 and isinstance(lost.__cause__, SLOW)):
                    raise
                error = lost
            if wait is None:
                wait = _FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            if attempt == self._attempts or wait > _LONGEST_WAIT:
                raise error
            logger.warning(f"{error.what} ({error.why}). Asking again in {wait:.1f} s.")
            ctx.progress(0, None, f"Asking {self._host} again in {wait:.0f} s")
            await asyncio.sleep(wait)
        raise BackendRequestError(f"{self._host} was not asked", "no attempt was allowed")

    # ---- one exchange --------------------------------------------------------------------------

    async def _exchange(self, body: Mapping[str, Any], question: Question, hear: OnText) -> Reply:
        sent = json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace")
        log_request("POST", self._url, f"a question to {self._model}", len(sent))
        try:
            async with (
                httpx2.AsyncClient(
                    timeout=self._timeouts,
                    verify=self._tls_context(),
                    # Proxies of the environment are not meant for endpoints on this machine.
                    trust_env=not _is_near(self._host),
                ) as client,
                client.stream("POST", self._url, content=sent, headers=self._headers()) as response,
            ):
                return await self._read(response, question, hear)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            # Some releases read the address of a redirect although none is followed.
            if "location header" in str(error):
                raise self._errors.redirected(_NO_PLACE) from error
            raise self._errors.lost(error) from error

    def _headers(self) -> dict[str, str]:
        headers = {
            "User-Agent": f"attention-studio/{__version__}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # so that a few bytes cannot become gigabytes
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _tls_context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:  # takes some ten milliseconds, so once
                self._tls = httpx2.create_ssl_context()
            return self._tls

    async def _read(self, response: httpx2.Response, question: Question, hear: OnText) -> Reply:
        if 300 <= response.status_code < 400:
            try:
                place = urljoin(self._url, str(response.headers.get("Location", "")))
                place = public_address(place)
            except ValueError:
                place = _NO_PLACE
            raise self._errors.redirected(place)
        if response.status_code >= 400:
            raise await Refused.of(response)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._errors.no_answer("it is compressed, which was not asked for")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        most = _MAX_BYTES + _MAX_BYTES_PER_TOKEN * question.max_tokens
        answer = Answer()
        if kind == "text/event-stream":
            await self._read_stream(response, answer, most, hear)
        elif kind == "application/json" or kind.endswith("+json"):
            await self._read_document(response, answer, most, hear)
        else:
            raise self._errors.no_answer(
                f"it is {shown(kind) or 'of no stated type'}, neither JSON nor a stream of events; "
                "a login page or a proxy may stand in between"
            )
        return answer.reply(sum(len(message.content) for message in question.messages))

    async def _read_stream(
        self, response: httpx2.Response, answer: Answer, most: int, hear: OnText
    ) -> None:
        lines = EventLines(_MAX_LINE)
        over = False
        async for piece in self._pieces(response, most):
            over = _take_in(lines.feed(piece), answer, hear)
            if over:
                break  # who does not hang up after the last event is not waited for
        if not over:
            over = _take_in(lines.end(), answer, hear)
        if answer.complaint is not None:
            raise self._errors.broken_off(f"it says: {answer.complaint}")
        if answer.finish is None and not over:
            raise self._errors.broken_off("the stream ended before the answer did")

    async def _read_document(
        self, response: httpx2.Response, answer: Answer, most: int, hear: OnText
    ) -> None:
        body = bytearray()
        async for piece in self._pieces(response, most):
            body += piece
        try:
            document = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._errors.no_answer(f"it is no UTF-8 text: {error.reason}") from None
        text = answer.take(document, whole=True)
        if answer.complaint is not None:
            raise BackendRequestError(
                f"{self._host} answered with an error", f"it says: {answer.complaint}"
            )
        if text:
            hear(text)

    async def _pieces(self, response: httpx2.Response, most: int) -> AsyncIterator[bytes]:
        done = 0
        async for piece in response.aiter_raw():
            done += len(piece)
            if done > most:
                raise self._errors.no_answer(
                    f"it has more than {most:,} bytes, far more than was asked for"
                )
            yield piece


def _take_in(events: list[str], answer: Answer, hear: OnText) -> bool:
    """Whether the stream is over with these events."""
    for event in events:
        if event.strip() == "[DONE]":
            return True
        text = answer.take(event)
        if answer.complaint is not None:
            return True
        if text:
            hear(text)
    return False


def _is_near(host: str) -> bool:
    """Whether ``host`` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
