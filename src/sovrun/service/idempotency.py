"""The `Idempotency-Key` header: a structured field String (RFC 9651), also accepted without its quotes."""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers

from sovrun.core.errors import InvalidIdentifier
from sovrun.core.ids import idempotency_key

NAME: Final = "Idempotency-Key"
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE: Final = re.compile(r"[!#-+\--:<-~]+")
"""Most clients send a key as it is. Without quotes it has no space, quote, comma or semicolon, which mean something."""


def key_of(headers: Headers) -> str | None:
    """Return the key of a request, None when it has none. Raises: InvalidIdentifier when it is malformed."""
    sent = headers.getlist(NAME)
    if not sent:
        return None
    text = sent[0].strip(" ")
    quoted, bare = _QUOTED.fullmatch(text), _BARE.fullmatch(text)
    if len(sent) > 1 or (quoted is None and bare is None):
        raise InvalidIdentifier(
            f"the header {NAME} is malformed", hint=f'it is one text in double quotes, as {NAME}: "order-17"'
        )
    return idempotency_key(text if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1]))
