"""The limits of a socket that follow from `serving.connections`."""

from __future__ import annotations

import pytest

from skragent.config import ServingConfig
from skragent.config_settings import REMOVED
from skragent.serving import Limits


def test_the_default_limits_are_those_of_the_default_connections() -> None:
    assert Limits.for_connections(ServingConfig().connections) == Limits()


@pytest.mark.parametrize(
    ("connections", "per_uid", "in_flight", "long_polls"),
    [(1, 1, 1, 1), (2, 1, 2, 2), (4, 2, 4, 3), (65536, 32768, 54614, 43691)],
)
def test_limits_follow_the_connections(
    connections: int, per_uid: int, in_flight: int, long_polls: int
) -> None:
    limits = Limits.for_connections(connections)
    assert limits.connections == connections
    assert limits.connections_per_uid == per_uid
    assert limits.requests_in_flight == in_flight
    assert limits.long_polls == long_polls


@pytest.mark.parametrize("connections", range(2, 100))
def test_one_user_alone_reaches_no_limit_of_all_users(connections: int) -> None:
    limits = Limits.for_connections(connections)
    assert limits.connections_per_uid < limits.connections
    assert limits.connections_per_uid < limits.requests_in_flight
    assert limits.connections_per_uid < limits.long_polls


@pytest.mark.parametrize(
    "name",
    [
        "head_bytes",
        "body_bytes",
        "head_timeout_seconds",
        "idle_timeout_seconds",
        "send_timeout_seconds",
    ],
)
def test_a_removed_setting_is_reported_with_the_limit(name: str) -> None:
    assert f" {getattr(Limits(), name)} " in REMOVED[f"serving.{name}"] + " "


def test_the_removed_rate_is_reported_with_the_limit() -> None:
    limit = Limits().requests_per_second_per_uid
    assert f" {limit} " in REMOVED["serving.answers_per_second_per_uid"]
