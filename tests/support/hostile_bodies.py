"""Bodies that no service sends, and that may meet any parser of any service."""

from __future__ import annotations

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "a page": b"<!DOCTYPE html><html><body>Blocked by policy</body></html>",
    "half of it": b'{"error":{"code":"Forbidden","message":"',
    "a megabyte of brackets": b"[" * (1 << 20),
    "brackets in brackets": b"[" * 1000 + b"]" * 1000,
    "objects in objects": b'{"error":' * 5000 + b"{}" + b"}" * 5000,
    "a number without an end": b'{"error":' + b"9" * 100_000 + b"}",
    "a number that is none": b'{"expires_in":1e999,"access_token":"a","value":NaN}',
    "not UTF-8": b'{"error":{"code":"\xff\xfe","message":"\xc3"}}',
    "half a pair": (
        b'{"error":{"code":"\\ud800","message":"\\udfff"},"value":"\\ud800"}'
    ),
    "control characters": (
        b'{"error":{"code":"a\\r\\nb","message":"a\\u0000\\u001b[31m\\u202e"},'
        b'"error_description":"AADSTS1\\r\\nX: y"}'
    ),
    "a long message": b'{"error":{"code":"c","message":"' + b"x" * 100_000 + b'"}}',
    "other types": b'{"error":[1],"value":{},"token":5,"keys":{"kid":1},"key":"k"}',
    "null": b"null",
    "an array": b"[]",
    "a text": b'"text"',
    "null everywhere": (
        b'{"error":null,"value":null,"token":null,"keys":null,"key":null,'
        b'"access_token":null,"expires_in":null,"vcekCert":null,"AkCertPem":null}'
    ),
    "a UTF-16 text": '{"error":{}}'.encode("utf-16"),
    "zeros": bytes(4096),
}

# Access tokens that must not become part of a header.
ACCESS_TOKENS = ("a\r\nX-Injected: y", "a b", "ä", "\x00", "", "\ud800", "x" * 200_000)

# The type or charset of a response must not select a decoder: XML and some of
# Python's charsets take memory or time without a bound.
TYPED_BODIES: dict[str, tuple[str, bytes]] = {
    "punycode": (
        "application/json; charset=punycode",
        b"a" * 10 + b"-" + b"a" * 500_000,
    ),
    "punycode in a page": ("text/html; charset=punycode", b"-" + b"a" * 500_000),
    "IDNA": ("application/json; charset=idna", b"a." * 250_000),
    "UTF-7": ("application/json; charset=utf-7", b"+AAA-" * 100_000),
    "no charset": ("application/json; charset=x\x00y", b"{}"),
    "an XML entity": (
        "application/xml",
        b'<!DOCTYPE x [<!ENTITY e "'
        + b"a" * 250_000
        + b'">]><x>'
        + b" " * 250_000
        + b"&e;" * 180
        + b"</x>",
    ),
    "XML elements": ("application/xml", b"<x>" + b"<a/>" * 125_000 + b"</x>"),
    "XML in XML": ("text/xml", b"<a>" * 160_000),
    "many objects": ("application/json", b"[" + b'{"":0},' * 70_000 + b"0]"),
    "many objects in a page": ("text/html", b"[" + b'{"":0},' * 70_000 + b"0]"),
    "many arrays": ("text/json", b"\xef\xbb\xbf[" + b"[0]," * 125_000 + b"0]"),
    "many numbers": ("application/x+json", b"[" + b"9," * 250_000 + b"0]"),
    "wide characters": (
        "application/json",
        b'{"error":{"code":"c","message":"\xf0\x9f\x98\x80' + b"x" * 100_000 + b'"}}',
    ),
}
