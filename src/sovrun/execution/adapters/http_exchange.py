"""What the calls of the http adapter are made of: records read from one or several endpoints, effects sent once.

Owns: paging, reading orders together with their executions, what an HTTP status and an error's body mean to an effect,
ending what is still live.
Must not touch: how a request is carried (`http_wire`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sovrun.core.times import time_text
from sovrun.execution.adapters.http_mapping import Effect, ErrorRule, HttpMapping, Read, Resource
from sovrun.execution.adapters.http_records import (
    Wanted,
    client_id_of,
    deployment_of,
    executed,
    identity_of,
    is_owned,
    order_of,
    read_each,
    with_executions,
)
from sovrun.execution.adapters.http_values import (
    Scope,
    UnfitError,
    at,
    bad_answer,
    each,
    loads,
    plain,
    text_of,
)
from sovrun.execution.adapters.http_wire import Answer, Budget, Wire
from sovrun.execution.port import (
    Call,
    Deployment,
    Done,
    Listing,
    NotReached,
    Order,
    OutcomeUnknown,
    Rejected,
    Told,
    Unreadable,
    UnreadableRecord,
)
from sovrun.ports import Clock

LOOKS_MAX: Final = 5
"""How often orders and executions are read until two looks agree."""

_UNKNOWN_STATUSES: Final[Mapping[int, str]] = {
    408: "timeout",
    409: "bad_answer",
    425: "server_error",
    429: "server_error",
}
"""Client errors that do not say that nothing happened, unless the mapping's `errors` do."""

_HARMLESS: Final[Mapping[str, tuple[Any, ...]]] = {
    "type": ("limit",),
    "price": (),
    "timeInForce": ("gtc",),
    "capital": (),
    "parameters": ({},),
}
"""What a request may leave out: members of a command, and their values that say nothing more than their absence."""


class Exchange:
    """Speaks to one provider as its mapping says."""

    def __init__(self, mapping: HttpMapping, wire: Wire, clock: Clock) -> None:
        self.mapping = mapping
        self.wire = wire
        self._clock = clock

    def scope(self, call: Call, **names: Any) -> Scope:
        """Return what the names in templates stand for in this call."""
        return {
            "tenant": str(call.tenant),
            "actor": str(call.actor),
            "mode": call.mode,
            "now": time_text(self._clock.now_us()),
            "clientId": call.client_id,
            **names,
        }

    def is_foreign(self, call: Call) -> bool:
        """Whether the account belongs to another tenant."""
        return self.mapping.tenant is not None and call.tenant != self.mapping.tenant

    def theirs(self, symbol: str) -> str | None:
        """Return the provider's word for a symbol, None when the mapping has none."""
        return symbol if self.mapping.symbols is None else self.mapping.symbols.get(symbol)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def deployments(
        self, call: Call, read: Read | None, names: Mapping[str, Any], wanted: Wanted, budget: Budget
    ) -> Listing[Deployment]:
        """Return the tenant's deployments that are wanted, by id."""
        resource = self.mapping.deployments
        if resource is None or read is None or self.is_foreign(call):
            return Listing([])
        scope = self.scope(call, **names)
        items = await self._wanted(resource, read, scope, wanted, budget)
        record, numbers = resource.record, self.mapping.numbers
        found = read_each(
            "deployment", record, items, scope, lambda item: deployment_of(record, item, scope, numbers)
        )
        return self._by_id(found, found.unreadable)

    async def deployment(self, call: Call, deployment: str, budget: Budget) -> Deployment | None:
        """Return a deployment by the provider's id."""
        resource = self.mapping.deployments
        read = None if resource is None else resource.get or resource.list
        names = {"deploymentId": deployment}
        return only(await self.deployments(call, read, names, named(deployment), budget))

    async def created(self, call: Call, client_id: str, budget: Budget) -> Deployment | None:
        """Return a deployment by our id."""
        resource = self.mapping.deployments
        read = None if resource is None else resource.find or resource.list
        names = {"clientId": client_id}
        return only(await self.deployments(call, read, names, called(client_id), budget))

    async def orders(
        self, call: Call, read: Read | None, names: Mapping[str, Any], wanted: Wanted, budget: Budget
    ) -> Listing[Order]:
        """Return the tenant's orders that are wanted, by id, with what was executed of them."""
        resource = self.mapping.orders
        if resource is None or read is None or self.is_foreign(call):
            return Listing([])
        scope = self.scope(call, **names)
        record = resource.record

        async def look() -> Listing[Order]:
            items = await self._wanted(resource, read, scope, wanted, budget)
            return read_each(
                "order", record, items, scope, lambda item: order_of(self.mapping, record, item, scope)
            )

        found = await look()
        if resource.fills is not None:
            found = await self._with_executions(resource, look, found, scope, wanted, budget)
        return self._by_id(found, found.unreadable)

    def _by_id(self, found: Iterable[Told], unreadable: Iterable[Unreadable]) -> Listing[Told]:
        """Return a list in order; what the provider said that could not be read may hold anything."""
        hidden = self.wire.secrets.hidden
        named = (
            replace(
                one,
                message=hidden(one.message),
                raw_status=None if one.raw_status is None else hidden(one.raw_status),
            )
            for one in unreadable
        )
        return Listing(sorted(found, key=lambda one: one.id), sorted(named, key=lambda one: one.id))

    async def order(self, call: Call, order: str, budget: Budget) -> Order | None:
        """Return an order by the provider's id."""
        resource = self.mapping.orders
        read = None if resource is None else resource.get or resource.list
        return only(await self.orders(call, read, {"orderId": order}, named(order), budget))

    async def placed(self, call: Call, client_id: str, budget: Budget) -> Order | None:
        """Return an order by our id."""
        resource = self.mapping.orders
        read = None if resource is None else resource.find or resource.list
        names = {"clientId": client_id}
        return only(await self.orders(call, read, names, called(client_id), budget))

    async def performed(
        self, call: Call, kind: str, client_id: str, budget: Budget
    ) -> Mapping[str, Any] | None:
        """Return what came of a command of a further kind, by our id."""
        further = self.mapping.commands.get(kind)
        if further is None or self.is_foreign(call):
            return None
        scope = self.scope(call, clientId=client_id)
        items = await self._items(further.find, scope, budget)
        owned = (item for item in items if is_owned(further.record, item, scope))
        found = [item for item in owned if client_id_of(further.record, item, scope) == client_id]
        if len(found) > 1:
            bad_answer(f"{len(found)} records have the id that is looked for")
        return require_object(found[0]) if found else None

    async def _with_executions(
        self,
        resource: Resource,
        look: Callable[[], Awaitable[Listing[Order]]],
        resting: Listing[Order],
        scope: Scope,
        wanted: Wanted,
        budget: Budget,
    ) -> Listing[Order]:
        # The two endpoints are read one after the other. Orders first: one that is executed between the reads is then
        # seen twice, never not at all. Orders once more afterwards: only when they are the same was it seen once.
        fills = resource.fills
        for _ in range(LOOKS_MAX):
            items = [] if fills is None else await self._items(fills.read, scope, budget)
            told, untold = ({}, []) if fills is None else executed(self.mapping, fills, items, scope, wanted)
            again = await look() if resting or resting.unreadable else resting
            if (again, again.unreadable) == (resting, resting.unreadable):
                dark = {one.id: one for one in (*untold, *resting.unreadable)}
                found = with_executions(resting, told)
                return Listing((one for one in found if one.id not in dark), dark.values())
            resting = again
        raise OutcomeUnknown("bad_answer", f"the orders were others at each of {LOOKS_MAX} looks")

    async def _wanted(
        self, resource: Resource, read: Read, scope: Scope, wanted: Wanted, budget: Budget
    ) -> list[Any]:
        """Return the tenant's own items that are wanted; others are not even looked into."""
        owned = (
            item for item in await self._items(read, scope, budget) if is_owned(resource.record, item, scope)
        )
        return [item for item in owned if wanted(*identity_of(resource.record, item, scope))]

    async def _items(self, read: Read, scope: Scope, budget: Budget) -> list[Any]:
        """Return all items of all pages. Raises: OutcomeUnknown rather than to return some of them."""
        found: list[Any] = []
        further: dict[str, str] = {}
        for page in range(self.mapping.pages):
            try:
                answer = await self.wire.ask(read.request, scope, budget, further=further)
            except UnfitError as error:
                if error.code == "not_found":
                    return []
                raise NotReached(f"nothing was asked: {error}") from error
            if page == 0 and answer.status in read.absent:
                return []
            told = require_read(answer)
            for path in read.items:
                found += each(told, path)
            following = None if read.next is None else at(told, read.next[0])
            if read.next is None or following is None or following == "":
                return found
            cursor = text_of(following, "next page")
            if further.get(read.next[1]) == cursor:
                bad_answer("a page names itself as the next one")
            further = {read.next[1]: cursor}
        raise OutcomeUnknown("bad_answer", f"there are more than {self.mapping.pages} pages")

    # --- effects ------------------------------------------------------------------------------------------------------

    def refused(self, call: Call) -> Rejected | None:
        """Return why this account takes no effect of this call."""
        if call.mode not in self.mapping.modes:
            known = ", ".join(sorted(self.mapping.modes))
            return Rejected("mode_not_allowed", f"the provider is for {known}, not for {call.mode}")
        if self.is_foreign(call):
            return Rejected("tenant_not_allowed", "the provider's account belongs to another tenant")
        return None

    async def send(self, effect: Effect, scope: Scope, budget: Budget) -> Answer | Rejected:
        """Send the request of an effect, once; return its answer when the provider acknowledged it.

        Raises: OutcomeUnknown, NotReached.
        """
        lost = _lost(effect, scope)
        if lost is not None:
            return lost
        try:
            answer = await self.wire.ask(effect.request, scope, budget)
        except UnfitError as error:
            return Rejected(error.code, str(error))
        if 200 <= answer.status < 300:
            if answer.body.strip():
                answer.json()  # a page of some gateway acknowledges nothing
            return answer
        return self._refusal(effect, answer)

    def _refusal(self, effect: Effect, answer: Answer) -> Rejected:
        body = _quietly_parsed(answer)
        rule = next(
            (rule for rule in (*effect.errors, *self.mapping.errors) if _fits(rule, answer, body)), None
        )
        told = None if rule is None or rule.message is None else at(body, rule.message)
        text = told if isinstance(told, str) else answer.body[:300].decode(errors="replace")
        message = self.wire.secrets.hidden(f"HTTP {answer.status}: {text}".strip(": "))
        if rule is not None:
            if rule.outcome == "not_taken_up":
                raise NotReached(f"the provider did not take it up: {message}")
            if rule.outcome == "unknown":
                raise OutcomeUnknown("server_error", message)
            return Rejected(rule.code, message, duplicate=rule.duplicate)
        if answer.status >= 500:
            raise OutcomeUnknown("server_error", message)
        if not 400 <= answer.status < 500:
            raise OutcomeUnknown("bad_answer", message)
        reason = _UNKNOWN_STATUSES.get(answer.status)
        if reason is not None:
            raise OutcomeUnknown(reason, message)
        return Rejected("provider_rejected", message)

    async def end(
        self,
        effect: Effect,
        scope: Scope,
        budget: Budget,
        *,
        read: Callable[[], Awaitable[Told | None]],
        judged: Callable[[Told], Done | Rejected | None],
        made: Callable[[Any], Told],
        ended: Callable[[Told, Told | None], Told],
    ) -> Done | Rejected:
        """Cancel or stop what is live.

        Args:
            read: returns it as it is. judged: what is answered without asking when it is over.
            made: makes it of a record. ended: how it is afterwards, of what it was and what the provider then shows.
        """
        try:
            before = await read()
        except OutcomeUnknown as error:
            raise NotReached(
                f"nothing was sent, because what it is about could not be read: {error}"
            ) from error
        if before is None:
            return Rejected("not_found", "the provider shows no such thing")
        over = judged(before)
        if over is not None:
            return over
        answer = await self.send(effect, scope, budget)
        if isinstance(answer, Answer) and effect.record is not None:
            return Done(made(at(answer.json(), effect.record)))
        try:
            after = await read()
        except OutcomeUnknown:
            after = None
        if isinstance(answer, Answer):
            return Done(ended(before, after))
        # it may have ended by itself just before
        return answer if after is None else judged(ended(before, after)) or answer


def _lost(effect: Effect, scope: Scope) -> Rejected | None:
    """Refuse what a command says beyond the defaults and the request would leave out."""
    for name, harmless in _HARMLESS.items():
        value = scope.get(name)
        if name not in effect.passes and value is not None and value not in harmless:
            return Rejected(
                "not_supported", f"the mapping does not pass on {name}, which is {str(value)[:80]}"
            )
    return None


def require_object(told: Any) -> Mapping[str, Any]:
    """Return what a command of a further kind made, as JSON that can be recorded. Raises: OutcomeUnknown."""
    if not isinstance(told, Mapping):
        bad_answer("what was made is no map")
    value: Mapping[str, Any] = plain(told)
    return value


def named(name: str) -> Wanted:
    """Want what the provider calls so; what does not tell its id may be that."""
    return lambda theirs, _: theirs in (None, name)


def called(client_id: str) -> Wanted:
    """Want what was made under our id; what does not tell any id may be that."""
    return lambda theirs, ours: ours == client_id or (theirs is None and ours is None)


def only(found: Listing[Told]) -> Told | None:
    """Return the one that was found. Raises: OutcomeUnknown when there are several, UnreadableRecord."""
    if len(found) > 1:
        bad_answer(f"{len(found)} records have the id that is looked for")
    unreadable = [one for one in found.unreadable if one.id or not found]
    if unreadable:
        raise UnreadableRecord(unreadable[0])
    return found[0] if found else None


def made_by(call: Call, told: Deployment | Order | None) -> Done:
    """Return what an acknowledged effect made. Raises: OutcomeUnknown when that is not what was asked for."""
    if told is None:
        bad_answer("it acknowledges what cannot be found")
    if told.client_id != call.client_id:
        bad_answer(f"it tells of {told.client_id}, not of {call.client_id}")
    return Done(told)


def require_read(answer: Answer) -> Any:
    """Return the value of a read's answer. Raises: OutcomeUnknown unless it was successful."""
    if answer.status >= 500:
        raise OutcomeUnknown("server_error", f"the provider answered HTTP {answer.status}")
    if not 200 <= answer.status < 300:
        bad_answer(f"HTTP {answer.status}")
    return answer.json()


def _quietly_parsed(answer: Answer) -> Any:
    try:
        return loads(answer.body)
    except OutcomeUnknown:
        return None


def _fits(rule: ErrorRule, answer: Answer, body: Any) -> bool:
    if rule.status != answer.status:
        return False
    if rule.at is None:
        return True
    told = at(body, rule.at)
    if rule.begins is not None:
        return isinstance(told, str) and told.startswith(rule.begins)
    return type(told) is type(rule.equals) and told == rule.equals
