"""skragent-errors(7), "What Azure says": each line is what the code makes of it."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError
from support.manual import Item, items

from skragent.attestation.maa import MaaClient
from skragent.errors import AgentError
from skragent.evidence import imds
from skragent.release.access_tokens import map_identity_failure
from skragent.release.vault_failures import map_refusal
from skragent.release.vault_refusals import REFUSALS
from skragent.transport import HttpClient, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTION = "WHAT AZURE SAYS"
VAULT = "Key Vault and Managed HSM"


class Row(NamedTuple):
    """One line of the table."""

    service: str
    status: int
    said: str
    is_code: bool
    code: str  # ours
    remedy: str

    @property
    def error(self) -> dict[str, str]:
        """What the service says, in its error format."""
        if self.is_code:
            return {"code": self.said, "message": "x"}
        return {"code": "Other", "message": f"Before. {self.said} after."}


def rows() -> Iterator[Row]:
    for item in items("skragent-errors.7"):
        if item.section == SECTION:
            yield from rows_of(item)


def rows_of(item: Item) -> Iterator[Row]:
    (code,) = re.findall(r"^\.Er (\S+) :$", item.lines[0])
    for said in item.words.split("Cm ")[1:]:
        (word,) = shlex.split(said.strip(" ,"))
        is_code = " " not in word
        yield Row(item.subsection, int(item.macro), word, is_code, code, item.text)


def vault_error(row: Row) -> AgentError:
    return map_refusal(
        row.status, {}, json.dumps({"error": row.error}).encode(), what="the key"
    )


def maa_error(row: Row) -> AgentError:
    class Http:
        def request(self, *_: object, **__: object) -> HttpResponse:
            body = json.dumps({"error": row.error}).encode()
            return HttpResponse(row.status, {}, body)

    client = MaaClient("https://maa.example", cast("HttpClient", Http()))
    with pytest.raises(AgentError) as caught:
        client.attest_guest(b"{}")
    return caught.value


def imds_token_error(row: Row) -> AgentError:
    error = CredentialUnavailableError(message=row.said)
    return map_identity_failure(error, status=row.status, is_managed=True)


def imds_error(row: Row) -> AgentError:
    return imds._refusal(HttpResponse(row.status, {}, b""), "/metadata")


def entra_error(row: Row) -> AgentError:
    error = ClientAuthenticationError(message=f"{row.said}: no")
    return map_identity_failure(error, status=row.status, is_managed=False)


SERVICES: dict[str, Any] = {
    VAULT: vault_error,
    "Azure Attestation": maa_error,
    "The metadata service, asked for an access token": imds_token_error,
    "The metadata service, asked for anything else": imds_error,
    "Entra ID": entra_error,
}
ROWS = tuple(rows())


def test_every_service_has_its_lines() -> None:
    assert {row.service for row in ROWS} == SERVICES.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.said}")
def test_a_refusal_has_the_code_that_its_line_says(row: Row) -> None:
    assert SERVICES[row.service](row).code == row.code


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.said}")
def test_what_the_hint_names_stands_in_the_line(row: Row) -> None:
    hint = SERVICES[row.service](row).hint
    text = " ".join(row.remedy.split())
    for named in re.findall(r"`([^`]+)`", hint):
        assert named.replace("…", "...") in text, hint
    if hint.startswith("Passes by itself"):
        assert "passes by itself" in text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.said}")
def test_every_refusal_has_a_remedy(row: Row) -> None:
    if row.code not in ("identity.not_found", "release.denied"):  # the class's hint
        assert SERVICES[row.service](row).hint


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.said}")
def test_the_line_and_the_hint_agree_on_a_restart_and_on_delays(row: Row) -> None:
    hint, text = SERVICES[row.service](row).hint, " ".join(row.remedy.split())
    for words in ("restart the vm", "ten minutes", "passes by itself"):
        if words != "ten minutes" or row.said != "AccessDenied":
            assert (words in hint.lower()) == (words in text.lower()), words


@pytest.mark.parametrize("said", ["AikCert is not valid now.", "The AIK cert expired"])
def test_a_refusal_of_the_ak_certificate_names_it_in_the_remedy(said: str) -> None:
    row = Row("", 400, said, is_code=False, code="", remedy="")
    hint = maa_error(row).hint
    assert "attestation key" in hint
    assert "`skragent status`" in hint
    assert "Secure Boot" not in hint


@pytest.mark.parametrize("row", [r for r in ROWS if r.service == VAULT and r.is_code])
def test_an_inner_code_means_what_the_outer_one_means(row: Row) -> None:
    if row.status != 403:
        return
    error = {"code": "Forbidden", "message": "x", "innererror": {"code": row.said}}
    body = json.dumps({"error": error}).encode()
    assert map_refusal(403, {}, body, what="the key").code == row.code


def test_the_table_has_every_refusal_that_the_code_knows() -> None:
    said = {
        row.said.lower() for row in ROWS if (row.service, row.status) == (VAULT, 403)
    }
    for refusal in REFUSALS:
        for code in refusal.codes:
            assert code.lower() in said
        for words in refusal.words:
            assert any(words in one for one in said), words


def test_the_table_has_the_lines_in_the_order_of_the_code() -> None:
    lines = [
        i.lines[0].split()[1]
        for i in items("skragent-errors.7")
        if (i.section, i.subsection, i.macro) == (SECTION, VAULT, "403")
    ]
    assert lines == [*(refusal.code for refusal in REFUSALS), "release.denied"]
