"""Pages that may connect, and the many that would like to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.identity.look_alikes import LOOK_ALIKES
from turnwire.identity.origins import OriginPolicy, fault_of_origin

POLICY = OriginPolicy(frozenset(["https://app.example.com", "http://intranet:8080", "http://[2001:db8::7]:9000"]))


def test_what_sends_no_origin_is_no_browser_and_may_connect() -> None:
    assert POLICY.permits(None, "anything.example")
    assert POLICY.permits(None, None)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.9.9.9", "127.9.9.9"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://localhost", "localhost"),
        ("http://192.168.1.20:8000", "192.168.1.20:8000"),
        ("http://LOCALHOST:8000", "localhost:8000"),
        ("http://localhost:8000", "LocalHost:8000"),
    ],
)
def test_a_page_of_this_server_reached_by_number_or_as_localhost_may_connect(origin: str, host: str) -> None:
    assert OriginPolicy(frozenset()).permits(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:3000", "localhost:8000"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("http://localhost", "localhost:8000"),
        ("http://localhost:8000", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost:8000", None),
        ("ftp://localhost:8000", "localhost:8000"),
        ("HTTP://localhost:8000", "localhost:8000"),
    ],
)
def test_another_port_or_scheme_is_another_origin(origin: str, host: str | None) -> None:
    assert not OriginPolicy(frozenset()).permits(origin, host)


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "chat.example.com", "localhost.evil.example", "127.0.0.1.evil.example", "mybox:8000"]
)
def test_a_name_that_can_be_pointed_here_is_not_same_origin(host: str) -> None:
    assert not OriginPolicy(frozenset()).permits(f"http://{host}", host)


def test_a_server_that_was_told_its_name_serves_its_own_page() -> None:
    policy = OriginPolicy(frozenset(["https://chat.example.com"]))
    assert policy.permits("https://chat.example.com", "chat.example.com")
    assert not policy.permits("https://evil.example", "evil.example")


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com", "https://APP.example.COM", "http://intranet:8080", "http://[2001:DB8::7]:9000"],
)
def test_an_allowed_origin_may_connect_to_whatever_host(origin: str) -> None:
    assert POLICY.permits(origin, "turnwire.internal:8000")
    assert POLICY.permits(origin, None)


@pytest.mark.parametrize("origin", LOOK_ALIKES)
@pytest.mark.parametrize("host", ["app.example.com", "localhost:8000", None])
def test_what_only_looks_like_an_allowed_origin_is_refused(origin: str, host: str | None) -> None:
    assert not POLICY.permits(origin, host)


@pytest.mark.parametrize(
    "host", ["localhost:8000@evil.example", "localhost:8000/", "a/?x=", "localhost:8000,localhost:8000"]
)
def test_an_odd_host_header_matches_nothing(host: str) -> None:
    assert not OriginPolicy(frozenset()).permits(f"http://{host}", host)
    assert not OriginPolicy(frozenset()).permits("http://localhost:8000", host)


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_permitted_is_allowed_or_a_number_or_localhost(left: str, right: str) -> None:
    origin = f"http://{left}localhost{right}"
    if OriginPolicy(frozenset()).permits(origin, f"{left}localhost{right}"):
        assert left == "" and (right == "" or right.startswith(":"))


@pytest.mark.parametrize("origin", ["https://app.example.com", "http://localhost:3000", "http://[::1]:3000"])
def test_a_whole_origin_has_no_fault(origin: str) -> None:
    assert fault_of_origin(origin) is None


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("*", "every page on the web"),
        ("https://app.example.com/", "without a path"),
        ("app.example.com", "whole origin"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("null", "whole origin"),
    ],
)
def test_the_fault_of_an_origin_says_what_to_write(origin: str, hint: str) -> None:
    assert hint in (fault_of_origin(origin) or "")


# --- a server that asks nobody who they are ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8000",
        "LOCALHOST",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.168.1.20",
        "app.example.com",
        "APP.example.com",
        "intranet:8080",
        "[2001:db8::7]:9000",
        None,
    ],
)
def test_a_call_without_origin_is_served_where_the_name_cannot_be_pointed_elsewhere(host: str | None) -> None:
    assert POLICY.permits_without_token(None, host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8000",
        "evil.example",
        "intranet",
        "intranet:8081",
        "app.example.com:8000",
        "app.example.com.evil.example",
        "localhost.evil.example",
        "localhost.",
        "127.0.0.1.evil.example",
        "evil.example/@localhost",
        "user@localhost",
        "",
        "localhost:8000,evil.example",
    ],
)
def test_a_page_whose_name_was_pointed_here_may_not_even_read(host: str) -> None:
    assert not POLICY.permits_without_token(None, host)
    assert not POLICY.permits_without_token(f"http://{host}", host)


def test_with_an_origin_the_rule_is_the_usual_one() -> None:
    assert POLICY.permits_without_token("https://app.example.com", "anything.example")
    assert POLICY.permits_without_token("http://localhost:8000", "localhost:8000")
    assert not POLICY.permits_without_token("https://evil.example", "localhost:8000")
    assert not POLICY.permits_without_token("null", "localhost:8000")
