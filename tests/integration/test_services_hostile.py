"""Any response of a service gives a value or an AgentError."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.hostile_bodies import ACCESS_TOKENS, BODIES, TYPED_BODIES
from support.release import (
    ISSUER,
    NONCE,
    WRAPPING_KID,
    key_set,
    make_token,
    wrapping_key,
)
from support.release_pki import NOW
from support.release_server import (
    ACCESS_TOKEN,
    Answer,
    Asked,
    access_tokens,
    challenge,
    json_answer,
    make_tls,
    serve,
)

from skragent.attestation.guest import parse_guest_response
from skragent.attestation.maa import MaaClient
from skragent.attestation.token import parse_signing_keys, verify_token
from skragent.errors import AgentError, Disposition
from skragent.evidence.ak_certificate import parse_renewal_response
from skragent.evidence.endorsements import parse_thim_response
from skragent.evidence.imds import ImdsClient
from skragent.evidence.tpm_public import RsaPublic
from skragent.identity import Identity
from skragent.release.envelope import ReleaseRequest, verify_release
from skragent.release.vault import VaultClient, vault_scope
from skragent.transport import HttpClient

TENANT = "aaaaaaaa-2222-3333-4444-555555555555"
CLIENT = "11111111-2222-3333-4444-555555555555"
ID = "22222222-2222-3333-4444-555555555555"
STATUSES = (200, 400, 403, 500)
JSON = {"Content-Type": "application/json; charset=utf-8"}


@dataclass
class Cloud:
    """All services on two servers: IMDS in the clear, the others with TLS."""

    imds_origin: str = ""
    origin: str = ""
    ca_file: str = ""
    path: str = ""  # the path whose response is replaced; with a token for a release
    answer: Answer = field(default_factory=Answer)

    def say(self, asked: Asked) -> Answer:
        """Answer as the services do, but for the path that is spoiled."""
        is_authorized = "Authorization" in asked.headers
        path = asked.path.replace(
            "/keys/", "/authorized/" if is_authorized else "/keys/"
        )
        if path.startswith(self.path):
            return self.answer
        if "/metadata/identity" in path:
            return json_answer(ACCESS_TOKEN)
        if "/.well-known/" in path:
            start = f"{self.origin}/{TENANT}"
            return json_answer(
                {
                    "issuer": f"{start}/v2.0",
                    "authorization_endpoint": f"{start}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{start}/oauth2/v2.0/token",
                }
            )
        return challenge(vault_scope(self.origin).removesuffix("/.default"))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    found = Cloud()
    tls, found.ca_file = make_tls(tmp_path_factory.mktemp("tls"))
    with serve(found.say) as imds, serve(found.say, tls) as others:
        found.imds_origin, found.origin = imds.origin, others.origin
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds.origin)
            yield found


def ask_imds(ask: Callable[[ImdsClient], object]) -> Callable[[Cloud], object]:
    def run(cloud: Cloud) -> object:
        with ImdsClient(cloud.imds_origin, DEADLINE_SECONDS) as imds:
            return ask(imds)

    return run


def ask_maa(ask: Callable[[MaaClient], object]) -> Callable[[Cloud], object]:
    def run(cloud: Cloud) -> object:
        with HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=cloud.ca_file, use_proxies=False
        ) as http:
            return ask(MaaClient(cloud.origin, http))

    return run


def ask_vault(ask: Callable[[VaultClient], object]) -> Callable[[Cloud], object]:
    def run(cloud: Cloud) -> object:
        with (
            HttpClient(
                timeout_seconds=DEADLINE_SECONDS,
                ca_file=cloud.ca_file,
                use_proxies=False,
            ) as http,
            access_tokens(Identity(), DEADLINE_SECONDS) as tokens,
        ):
            return ask(VaultClient(cloud.origin, tokens, session=http.new_session()))

    return run


def release(vault: VaultClient) -> str:
    numbers = wrapping_key().public_key().public_numbers()
    ours = RsaPublic(numbers.n, numbers.e)
    keys = parse_signing_keys(key_set())
    token = verify_token(
        make_token(),
        signing_keys=keys,
        issuer=ISSUER,
        now=NOW,
        nonce=NONCE,
        wrapping_key=ours,
    )
    request = ReleaseRequest(
        vault=vault.url,
        name="mykey",
        version="",
        enc="RSA_AES_KEY_WRAP_256",
        nonce="n",
        wrapping_key_id=WRAPPING_KID,
    )
    jws = vault.release(request, token)
    return verify_release(jws, request, roots=(), now=NOW).version


def ask_identity(who: Identity) -> Callable[[Cloud], object]:
    def run(cloud: Cloud) -> object:
        with access_tokens(
            who, DEADLINE_SECONDS, authority=cloud.origin, ca_file=cloud.ca_file
        ) as tokens:
            return tokens.get_token_info("https://vault.azure.net/.default").token

    return run


def ask_entra(cloud: Cloud) -> object:
    secret = Path(cloud.ca_file).with_name("secret")
    secret.write_text("s3cret")
    who = Identity(tenant_id=TENANT, client_id=CLIENT, secret_file=str(secret))
    return ask_identity(who)(cloud)


THIM = "/metadata/THIM"
SERVICES: dict[str, tuple[str, Callable[[Cloud], object]]] = {
    "the VM's place": ("/metadata/instance", ask_imds(ImdsClient.location)),
    "the VM's id": ("/metadata/instance", ask_imds(ImdsClient.vm_id)),
    "THIM": (THIM, ask_imds(lambda imds: parse_thim_response(imds.endorsements()))),
    "a renewal": (
        THIM,
        ask_imds(
            lambda imds: parse_renewal_response(imds.renew_ak_certificate("pem", ID))
        ),
    ),
    "an order": (THIM, ask_imds(lambda imds: imds.order_ak_certificate("pem", ID))),
    "a managed identity": ("/metadata/identity", ask_identity(Identity())),
    "Entra ID's tenant": (f"/{TENANT}/v2.0", ask_entra),
    "Entra ID's token": (f"/{TENANT}/oauth2", ask_entra),
    "an attestation": (
        "/attest",
        ask_maa(lambda maa: parse_guest_response(maa.attest_guest(b"{}"))),
    ),
    "signing keys": (
        "/certs",
        ask_maa(lambda maa: parse_signing_keys(maa.signing_keys())),
    ),
    "a challenge": ("/keys", ask_vault(release)),
    "a release": ("/authorized", ask_vault(release)),
    "a version": (
        "/authorized",
        ask_vault(lambda vault: vault.latest_version("mykey")),
    ),
}


# In the service's own error format.
DENIALS = {
    (service, status, body)
    for service, statuses in (
        ("an attestation", (400,)),
        ("a challenge", (400, 403)),
        ("a release", (400, 403)),
        ("a version", (400, 403)),
    )
    for status in statuses
    for body in ("control characters", "a long message")
}
# Responses with the form of a VM ID or of a region.
USABLE = {
    ("an order", 200, "a text"): "text",
    ("an order", 200, "null"): "null",
    ("the VM's place", 200, "null"): "null",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("status", STATUSES)
def test_a_hostile_body_is_an_error_of_ours(
    cloud: Cloud, service: str, body: str, status: int
) -> None:
    cloud.path, ask = SERVICES[service]
    cloud.answer = Answer(status, BODIES[body], JSON)
    if (service, status, body) in USABLE:
        assert ask(cloud) == USABLE[service, status, body]
        return
    with pytest.raises(AgentError) as caught:
        ask(cloud)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
    is_denial = caught.value.disposition is Disposition.DENIED
    assert is_denial == ((service, status, body) in DENIALS)


def most_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("body", TYPED_BODIES)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("status", [200, 403])
def test_a_counterpart_chooses_no_decoder(
    cloud: Cloud, service: str, body: str, status: int
) -> None:
    cloud.path, ask = SERVICES[service]
    kind, content = TYPED_BODIES[body]
    cloud.answer = Answer(status, content, {"Content-Type": kind})
    before = most_memory()
    with pytest.raises(AgentError) as caught:
        ask(cloud)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
    assert most_memory() - before <= 32 << 20


@pytest.mark.parametrize("token", ACCESS_TOKENS)
@pytest.mark.parametrize("service", ["a managed identity", "Entra ID's token"])
def test_a_malformed_access_token_reaches_no_header(
    cloud: Cloud, service: str, token: str
) -> None:
    cloud.path, ask = SERVICES[service]
    cloud.answer = json_answer(ACCESS_TOKEN | {"access_token": token})
    with pytest.raises(AgentError) as caught:
        ask(cloud)
    assert caught.value.code == "identity.unavailable"
