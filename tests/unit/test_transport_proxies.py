"""A proxy is named in an error, and its user and password never are."""

from __future__ import annotations

import pytest

from skragent.transport.proxies import find_proxy

VAULT = "https://v.vault.azure.net"


def named(proxy: str) -> str:
    """Return what an error says of this proxy."""
    return str(find_proxy(VAULT, {"https": proxy}, {"HTTPS_PROXY": proxy}))


@pytest.mark.parametrize(
    ("proxy", "origin"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://user:s3cret@proxy.example:3128/", "http://proxy.example:3128"),
        ("user:s3cret@proxy.example:3128", "http://proxy.example:3128"),
        ("http://user:s3c@ret@proxy.example", "http://proxy.example"),
        ("http://user:s3cret@[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("http://[fe80::1%25eth0]:3128", "http://[fe80::1%25eth0]:3128"),
        ("http://proxy.example/?token=s3cret", "http://proxy.example"),
    ],
)
def test_proxy_is_named_by_its_origin_and_setting(proxy: str, origin: str) -> None:
    assert named(proxy) == f"{origin} (HTTPS_PROXY)"


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:s3c/ret@proxy.example:3128",
        "http://user:s3c#ret@proxy.example:3128",
        "http://user:s3c?ret@proxy.example:3128",
        "http://user:123/s3cret@proxy.example:3128",
        "user:s3c/ret@proxy.example:3128",
        "http://user:s3c/ret",
        "http://user%3As3cret%40proxy.example:3128",
        "http:/user:s3cret@proxy.example:3128",
        "http://[::1",
        "http://",
    ],
)
def test_nothing_of_a_malformed_url_is_quoted(proxy: str) -> None:
    assert named(proxy) == "with a malformed URL (HTTPS_PROXY)"


def test_a_direct_connection_has_no_proxy() -> None:
    assert find_proxy(VAULT, {}, {}) is None
