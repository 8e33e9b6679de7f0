"""One request and its answer, and what is known when there is none.

Owns: the HTTP client (never a retry, never a redirect, certificates checked, answers of bounded size), secrets in
headers, and telling what was certainly never sent from what may have been.
Must not touch: what an answer means to an order or a deployment.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from sovrun.core.errors import InvalidSetting
from sovrun.execution.adapters.http_mapping import HttpMapping, Request
from sovrun.execution.adapters.http_values import Scope, UnfitError, dumps, filled, filled_text, loads
from sovrun.execution.port import NotReached, OutcomeUnknown

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_UNSAFE_SEGMENT: Final = re.compile(r"\.{1,2}|.*[/\\%?#].*", re.DOTALL)
_HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?", re.ASCII)
_SECRET_MAX: Final = 16 << 10
_KEPT_OPEN_SECONDS: Final = 5.0
_SENDING: Final = ".send_request_headers.started"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered: status and body as they came."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body's value. Raises: OutcomeUnknown."""
        return loads(self.body)


class Budget:
    """How long one call may still take, over all its requests."""

    def __init__(self, timeout_us: int) -> None:
        self._ends = asyncio.get_running_loop().time() + timeout_us / 1_000_000

    def seconds(self, timeout_us: int) -> float:
        """Return how long a request may take. Raises: NotReached when no time is left."""
        left = self._ends - asyncio.get_running_loop().time()
        if left <= 0:
            raise NotReached("the time of the call ran out before the request was sent")
        return min(left, timeout_us / 1_000_000)


@dataclass(slots=True)
class Secrets:
    """The values behind `env` and `file`; files are read anew for every request, so that one may be renewed.

    Args:
        folder: from which relative paths count.
    """

    folder: Path
    _seen: set[str] = field(default_factory=set, repr=False)

    def value(self, form: str, name: str) -> str:
        """Return a secret's text. Raises: InvalidSetting, which never shows it."""
        value = os.environ.get(name) if form == "env" else _content(self.folder / name)
        if value is None:
            raise InvalidSetting(
                f"the environment variable {name} is not set", hint="set it where Sovrun is started"
            )
        value = value.rstrip("\r\n")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise InvalidSetting(
                f"the secret of {form} {name} cannot stand in a header",
                hint="it must be one line of printable ASCII, without spaces at its ends",
            )
        self._seen.add(value)
        return value

    def filled(self, template: Any) -> Any:
        """Return a header's template with its secrets in place."""
        if isinstance(template, Mapping):
            for form in ("env", "file"):
                if form in template:
                    return {"literal": self.value(form, template[form])}
            if "join" in template:
                return {"join": [self.filled(part) for part in template["join"]]}
        return template

    def hidden(self, text: str) -> str:
        """Return a text without the values of secrets, printable and short."""
        for value in sorted(self._seen, key=len, reverse=True):
            text = text.replace(value, "***")
        return re.sub(r"[^ -~]+", " ", text)[:300]


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_SECRET_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidSetting(
            f"the secret file {path}: {what}", hint="it must be readable by Sovrun"
        ) from error


class Wire:
    """Sends requests as a mapping writes them; paths in it count from `folder`."""

    def __init__(self, mapping: HttpMapping, base_url: str, folder: Path) -> None:
        self.secrets = Secrets(folder)
        self._mapping = mapping
        self._base = base_url
        try:
            httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise InvalidSetting(
                f"baseUrl {base_url!r:.80}: {error}", hint="write a URL such as https://api.example.org/v2"
            ) from error
        try:
            trust = ssl.create_default_context(cafile=None if mapping.ca is None else folder / mapping.ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(
                f"tls.ca {mapping.ca}: {error}", hint="name a readable file of PEM certificates"
            ) from error
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=trust,
                retries=0,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=mapping.connections,
                    max_keepalive_connections=mapping.connections,
                    keepalive_expiry=_KEPT_OPEN_SECONDS,
                ),
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(
        self, request: Request, scope: Scope, budget: Budget, *, further: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request, once, and return its answer, whatever its status.

        Args:
            further: query parameters beside those of the mapping.
        Raises: UnfitError when it cannot be written for this provider; NotReached when certainly nothing was sent;
            OutcomeUnknown when there is no whole answer.
        """
        try:
            written = self._written(request, scope, further or {})
        except InvalidSetting as error:
            raise NotReached(f"nothing was sent: {error.detail}") from error
        except httpx.InvalidURL as error:
            raise UnfitError("not_supported", f"the request has no URL: {error}") from error
        begun = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal begun
            begun = begun or event.endswith(_SENDING)

        written.extensions = {
            **written.extensions,
            "trace": trace,
            "timeout": {"connect": self._mapping.connect_us / 1_000_000},
        }
        seconds = budget.seconds(request.timeout_us)
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.send(written, stream=True)
                try:
                    return Answer(response.status_code, await self._bounded(response))
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException) as error:
            if not begun:
                raise NotReached(f"no connection to {self._base} in time") from error
            raise OutcomeUnknown("timeout", f"no answer within {seconds:.3g} s") from error
        except httpx.TransportError as error:
            what = self.secrets.hidden(str(error)) or type(error).__name__
            if not begun:
                raise NotReached(f"no connection to {self._base}: {what}") from error
            raise OutcomeUnknown("connection_lost", f"the connection was lost: {what}") from error

    async def _bounded(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise OutcomeUnknown("bad_answer", "the answer is compressed, which was not asked for")
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > self._mapping.answer_bytes:
                raise OutcomeUnknown(
                    "bad_answer", f"the answer has more than {self._mapping.answer_bytes} bytes"
                )
        return bytes(body)

    def _written(self, request: Request, scope: Scope, further: Mapping[str, str]) -> httpx.Request:
        numbers = self._mapping.numbers
        query = {name: filled_text(template, scope, numbers) for name, template in request.query.items()}
        headers = httpx.Headers({"Accept": "application/json", "Accept-Encoding": "identity"})
        for name, template in (*self._mapping.headers.items(), *request.headers.items()):
            text = filled_text(self.secrets.filled(template), scope)
            if text is None:
                continue
            if _HEADER_VALUE.fullmatch(text) is None:
                raise UnfitError("not_supported", f"the header {name} cannot hold what it should")
            headers[name] = text
        content = None
        if request.body is not None:
            content = dumps(filled(request.body, scope, numbers))
            headers.setdefault("Content-Type", "application/json")
        pairs = {**{name: text for name, text in query.items() if text is not None}, **further}
        return self._client.build_request(
            request.method,
            self._base + _path(request.path, scope),
            params=pairs or None,
            headers=headers,
            content=content,
        )


def _path(path: str, scope: Scope) -> str:
    """Return a path with its names replaced, each as one segment that cannot lead elsewhere."""

    def segment(match: re.Match[str]) -> str:
        text = filled_text({"from": match[1]}, scope)
        if text is None or text == "" or _UNSAFE_SEGMENT.fullmatch(text):
            raise UnfitError("not_found", f"{match[1]} {text!r:.80} cannot be a part of the path")
        return quote(text, safe="")

    return _BRACES.sub(segment, path)


def require_secrets(wire: Wire, named: Iterable[tuple[str, str]]) -> None:
    """Raise InvalidSetting unless every secret can be had."""
    for form, name in named:
        wire.secrets.value(form, name)
