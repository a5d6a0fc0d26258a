"""The identity for access tokens: a table of the configuration and a part of each job.

The agent passes the table to the releaser as it is. So both sides use this one class.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from skragent.config_settings import Setting


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The agent's identity for the vaults.

    For a user-assigned managed identity, set one of `client_id`, `object_id` and
    `resource_id`. Without any of them, the agent uses the VM's system-assigned
    identity. For an application of Microsoft Entra ID, set `tenant_id`, `client_id` and
    one of `certificate`, `secret_file` and `token_file`.

    `[identities.NAME]` has the same settings, for keys with `keys.NAME.identity`. NAME
    has 1 to 64 letters, digits, `-` and `_`, and begins with a letter or digit.
    """

    client_id: Annotated[
        str, Setting("A UUID: the client id of the identity or the application.")
    ] = ""
    object_id: Annotated[
        str, Setting("A UUID: the object id (principal id) of the identity.")
    ] = ""
    resource_id: Annotated[
        str,
        Setting(
            "The resource id of the identity,"
            " `/subscriptions/.../userAssignedIdentities/NAME`."
        ),
    ] = ""
    tenant_id: Annotated[
        str, Setting("The tenant of the application: a UUID or a domain.")
    ] = ""
    certificate: Annotated[
        str,
        Setting(
            "An absolute path: a PEM or PFX file with an RSA certificate and its"
            " private key, without a passphrase. Set owner `skragent` and mode 0400."
            " AppArmor allows this file and the next two in `/etc/skragent`; other"
            " directories need a line each: see skragent.service(8)."
        ),
    ] = ""
    secret_file: Annotated[
        str, Setting("An absolute path: a file with only a client secret.")
    ] = ""
    token_file: Annotated[
        str,
        Setting(
            "An absolute path: the token file that the platform of a workload identity"
            " keeps current."
        ),
    ] = ""
