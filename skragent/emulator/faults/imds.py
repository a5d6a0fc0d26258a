"""Faults of the metadata service: rate limits, identities, endorsements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import RESPONSE_OPTIONS, fault
from skragent.emulator.faults.grammar import FaultSpec, optional
from skragent.emulator.faults.tampering import with_member
from skragent.emulator.imds.thim import AT_ONCE
from skragent.emulator.throttle import TokenBucket

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext
    from skragent.emulator.service import Request


@fault(
    "imds",
    "throttle",
    optional(grammar.NUMBER, 5),
    {"retry_after": grammar.TEXT, "path": grammar.TEXT},
)
async def throttle(context: FaultContext, spec: FaultSpec) -> None:
    """Only this many requests per second (5) are allowed; others get 429."""
    imds = context.emulator.imds
    clock = context.emulator.azure.clock
    bucket = TokenBucket(spec.value, spec.value, clock.monotonic)

    def count(request: Request) -> None:
        if not bucket.take():
            refusal = imds.refusal_of(request, 429)
            if "retry_after" in spec.options:
                refusal.headers["Retry-After"] = spec.options["retry_after"]
            raise refusal

    context.guard(spec, count)


@fault("imds", "identity.removed")
async def identity_removed(context: FaultContext, spec: FaultSpec) -> None:
    """The VM has no managed identity: 400 Identity not found."""
    context.mutate(spec, "identities", lambda _: [])


@fault(
    "imds",
    "access_token",
    optional(grammar.TEXT_OR_NONE, "not.a.token"),
    RESPONSE_OPTIONS,
)
async def access_token(context: FaultContext, spec: FaultSpec) -> None:
    """The access token is this text, which vaults reject."""
    context.mutate(spec, "access_token", lambda _: spec.value)


@fault("imds", "compute.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS)
async def compute(context: FaultContext, spec: FaultSpec) -> None:
    """This member of the instance metadata, such as location, is changed or missing."""
    context.mutate(spec, "compute", lambda d: with_member(d, spec.member, spec.value))


@fault(
    "imds", "thim.*", optional(grammar.TEXT_OR_NONE, grammar.MISSING), RESPONSE_OPTIONS
)
async def thim(context: FaultContext, spec: FaultSpec) -> None:
    """This member of the THIM response, such as vcekCert, is changed or missing."""
    context.mutate(spec, "thim", lambda d: with_member(d, spec.member, spec.value))


@fault(
    "imds",
    "renewal.*",
    optional(grammar.TEXT_OR_NONE, grammar.MISSING),
    RESPONSE_OPTIONS,
)
async def renewal(context: FaultContext, spec: FaultSpec) -> None:
    """This member of the renewal response, such as AkCertPem, is changed or missing."""
    context.mutate(spec, "renewal", lambda d: with_member(d, spec.member, spec.value))


@fault("imds", "renewal_later")
async def renewal_later(context: FaultContext, spec: FaultSpec) -> None:
    """THIM renews AK certificates only by order (api-version 2021-12-01)."""
    imds = context.emulator.imds

    def refuse(request: Request) -> None:
        if request.parameter("api-version") == AT_ONCE:
            raise imds.refusal_of(request, 400)

    context.guard(spec, refuse)
