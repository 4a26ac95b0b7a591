"""Addresses of MCP servers: their forms, and what of them may show."""

from __future__ import annotations

import pytest

from stbass.errors import ConfigurationError
from stbass.mcp.address import parse_address

TOKEN = "sk1live9Qm3vXc7Zr5Tn2Wp8Ya"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("http://127.0.0.1:8000/mcp", "http"),
        ("https://tools.example/mcp/", "http"),
        ("HTTPS://tools.example", "http"),
        ("http://tools.example/sse", "sse"),
        ("http://tools.example/a/sse/", "sse"),
        ("http://tools.example/mcp?from=/sse", "http"),
        ("http://[::1]:8000/sse", "sse"),
        ("stdio:python server.py", "stdio"),
    ],
)
def test_the_form_of_an_address_says_how_to_speak_to_the_server(address: str, kind: str) -> None:
    assert parse_address(address).kind == kind


def test_an_innocent_address_shows_as_it_is() -> None:
    for address in ("http://127.0.0.1:8000/mcp", "http://[::1]:8000/sse", "stdio:python server.py --port 3"):
        assert parse_address(address).shown == address


def test_what_is_shown_of_an_http_address_holds_no_login_no_query_and_no_token() -> None:
    # Given
    address = f"https://anna:p%40ss@tools.example:8443/s/{TOKEN}/mcp?api_key={TOKEN}x&team=core"
    # When
    found = parse_address(address)
    # Then
    assert found.shown == "https://***@tools.example:8443/s/***/mcp?***"
    assert found.url == "https://tools.example:8443/s/***/mcp"
    assert found.real == f"https://tools.example:8443/s/{TOKEN}/mcp?api_key={TOKEN}x&team=core"
    assert found.login == ("anna", "p@ss")
    assert TOKEN not in repr(found)
    assert "p@ss" not in repr(found)


def test_secrets_are_taken_out_of_other_peoples_words() -> None:
    found = parse_address(f"https://anna:p%40ss@tools.example/mcp?key={TOKEN}%21")
    assert found.redacted(f"no entry for anna:p@ss with {TOKEN}!") == "no entry for ***:*** with ***"
    assert found.redacted("bearer abcdef", "abcdef") == "bearer ***"


def test_a_command_is_split_as_a_shell_does_it() -> None:
    found = parse_address("stdio:LEVEL=debug 'NAME=a b' python 'my server.py' --name='x y' A=1")
    assert found.command == ("python", "my server.py", "--name=x y", "A=1")
    assert found.environment == (("LEVEL", "debug"), ("NAME", "a b"))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (f"API={TOKEN} npx server", "API=*** npx server"),
        (f"npx server --api-key {TOKEN} --verbose", "npx server --api-key *** --verbose"),
        ("npx server --api-key=hush --port=3", "npx server --api-key=*** --port=3"),
        ("npx server --token --verbose", "npx server --token --verbose"),
        ("npx remote --header 'Authorization: Bearer hush'", "npx remote --header Authorization: ***"),
        ("npx remote https://anna:hush@tools.example/mcp?k=hush", "npx remote https://***@tools.example/mcp?***"),
        (f"npx remote {TOKEN}", "npx remote ***"),
        ("psql-server --passwd hush 'postgres://u:hush@db/x'", "psql-server --passwd *** postgres://***@db/x"),
    ],
)
def test_what_is_shown_of_a_command_holds_no_secret(command: str, shown: str) -> None:
    found = parse_address(f"stdio:{command}")
    assert found.shown == f"stdio:{shown}"
    assert found.redacted(command).count("hush") == 0
    assert TOKEN not in found.redacted(command)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "found none"),
        ("server.py", "found none"),
        (f"ftp://anna:{TOKEN}@tools.example/mcp", "found the scheme 'ftp'"),
        (f"http:///{TOKEN}", "has no host"),
        (f"http://tools.example:{TOKEN}/mcp", "not a URL"),
        ("stdio:", "no command"),
        (f"stdio:KEY={TOKEN}", "no command"),
        (f"stdio:python 'server.py {TOKEN}", "cannot be split"),
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(address: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_address(address)
    assert "streamable HTTP" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_an_address_is_text() -> None:
    with pytest.raises(TypeError, match="got int"):
        parse_address(8000)  # type: ignore[arg-type]
