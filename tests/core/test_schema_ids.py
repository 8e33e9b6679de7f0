"""Every published schema is named below one host, which nobody can own (RFC 6761)."""

import re
from pathlib import Path

import sovrun

PACKAGE = Path(sovrun.__file__).parent


def test_every_schema_has_its_name_below_the_same_host() -> None:
    hosts = {
        host
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".json")
        for host in re.findall(r"https://([^/\"]*)/schemas?/", path.read_text())
    }
    assert hosts == {"sovrun.invalid"}
