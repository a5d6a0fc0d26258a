"""Faults of the metadata service: limits, identities, endorsements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import OF_ANSWERS, fault
from skragent.emulator.faults.grammar import Asked, optional
from skragent.emulator.faults.tampering import with_member
from skragent.emulator.imds.thim import AT_ONCE
from skragent.emulator.throttle import TokenBucket

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site
    from skragent.emulator.service import Request


@fault(
    "imds",
    "throttle",
    optional(grammar.NUMBER, 5),
    {"retry_after": grammar.TEXT, "path": grammar.TEXT},
)
async def throttle(site: Site, asked: Asked) -> None:
    """Only so many requests a second (5) are allowed, of any kind; then it is 429."""
    imds = site.emulator.imds
    clock = site.emulator.azure.clock
    bucket = TokenBucket(asked.value, asked.value, clock.monotonic)

    def count(request: Request) -> None:
        if not bucket.take():
            refusal = imds.refusal_of(request, 429)
            if "retry_after" in asked.options:
                refusal.headers["Retry-After"] = asked.options["retry_after"]
            raise refusal

    site.guard(asked, count)


@fault("imds", "identity.removed")
async def identity_removed(site: Site, asked: Asked) -> None:
    """No managed identity is assigned to the VM any more: 400 Identity not found."""
    site.mutate(asked, "identities", lambda _: [])


@fault(
    "imds", "access_token", optional(grammar.TEXT_OR_NONE, "not.a.token"), OF_ANSWERS
)
async def access_token(site: Site, asked: Asked) -> None:
    """Access tokens are this text, which no vault takes."""
    site.mutate(asked, "access_token", lambda _: asked.value)


@fault("imds", "compute.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def compute(site: Site, asked: Asked) -> None:
    """This member of the instance metadata, such as location, is that, or missing."""
    site.mutate(asked, "compute", lambda d: with_member(d, asked.member, asked.value))


@fault("imds", "thim.*", optional(grammar.TEXT_OR_NONE, grammar.MISSING), OF_ANSWERS)
async def thim(site: Site, asked: Asked) -> None:
    """This member of the THIM answer, such as vcekCert, is that, or missing."""
    site.mutate(asked, "thim", lambda d: with_member(d, asked.member, asked.value))


@fault("imds", "renewal.*", optional(grammar.TEXT_OR_NONE, grammar.MISSING), OF_ANSWERS)
async def renewal(site: Site, asked: Asked) -> None:
    """This member of a renewal's answer, such as AkCertPem, is that, or missing."""
    site.mutate(asked, "renewal", lambda d: with_member(d, asked.member, asked.value))


@fault("imds", "renewal_later")
async def renewal_later(site: Site, asked: Asked) -> None:
    """THIM renews AK certificates by order only, as api-version 2021-12-01 has it."""
    imds = site.emulator.imds

    def refuse(request: Request) -> None:
        if request.parameter("api-version") == AT_ONCE:
            raise imds.refusal_of(request, 400)

    site.guard(asked, refuse)
