"""Every file of an environment is accounted for, and nothing outside it is ever opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from evidence.record import inside, parse_record
from evidence.tree import shown, tree_of
from evidence.verify import verify_shard

from support.environments import Environment, record_hash


def checked(environment: Environment, shards: int = 1) -> list[dict[str, Any]]:
    tree = tree_of(environment.root)
    return [verify_shard(tree, shard=shard, shards=shards) for shard in range(shards)]


def findings(environment: Environment) -> list[tuple[str, str]]:
    return [(each["kind"], each["path"]) for part in checked(environment) for each in part["findings"]]


def test_an_intact_distribution_has_no_findings(environment: Environment) -> None:
    environment.distribution("good")
    (part,) = checked(environment)
    assert part["findings"] == []
    assert part["distributions"] == [
        {"directory": "good-1.0.dist-info", "ok": 4, "changed": 0, "missing": 0, "unlisted": 0}
        | {"unhashed": 0, "not_regular": 0, "outside": 0}
    ]


def test_a_changed_file_is_found_with_both_hashes(environment: Environment) -> None:
    environment.distribution("good")
    environment.write("good/module_1.py", b"VALUE = 'tampered'\n")
    (part,) = checked(environment)
    (found,) = part["findings"]
    assert (found["kind"], found["path"]) == ("changed", "good/module_1.py")
    assert found["expected"] != found["actual"]
    assert found["actual"] == tree_of(environment.root).digest("good/module_1.py", "sha256")


def test_one_changed_bit_of_equal_length_is_found(environment: Environment) -> None:
    environment.distribution("good")
    environment.write("good/module_1.py", b"VALUE = 3\n")
    assert findings(environment) == [("changed", "good/module_1.py")]


def test_a_missing_file_is_found(environment: Environment) -> None:
    environment.distribution("good")
    (environment.root / "good" / "module_0.py").unlink()
    assert findings(environment) == [("missing", "good/module_0.py")]


def test_an_unlisted_file_belongs_to_the_distribution_it_lies_beside(environment: Environment) -> None:
    environment.distribution("good")
    environment.distribution("other")
    environment.write("good/deep/er/extra.py", b"")
    (part,) = checked(environment)
    assert [(each["kind"], each["distribution"]) for each in part["findings"]] == [
        ("unlisted", "good-1.0.dist-info")
    ]
    assert {each["directory"]: each["unlisted"] for each in part["distributions"]} == {
        "good-1.0.dist-info": 1,
        "other-1.0.dist-info": 0,
    }


def test_an_unlisted_file_between_two_distributions_belongs_to_neither(environment: Environment) -> None:
    for name in ("one", "two"):
        environment.listed(environment.distribution(name), f"space/{name}.py", b"")
    environment.write("space/extra.py", b"")
    (part,) = checked(environment)
    assert [(each["path"], each["distribution"]) for each in part["findings"]] == [("space/extra.py", None)]
    assert part["loose"] == 1


@pytest.mark.parametrize("name", ["helper.pth", "sitecustomize.py"])
def test_an_unlisted_file_that_runs_at_start_says_so(environment: Environment, name: str) -> None:
    environment.distribution("good")
    environment.write(name, b"import os\n")
    (found,) = checked(environment)[0]["findings"]
    assert found["detail"] == "read by every interpreter of this environment when it starts"


def test_caches_are_no_part_of_the_evidence(environment: Environment) -> None:
    directory = environment.distribution("good")
    environment.line(directory, "good/__pycache__/module_0.cpython-311.pyc,,")
    environment.write("good/__pycache__/module_1.cpython-311.pyc", b"\x00")
    environment.write("good/__pycache__/module_1.py", b"")
    environment.write("good/module_0.pyc", b"\x00")
    assert findings(environment) == []


def test_a_path_that_leads_outside_is_reported_as_outside_and_never_opened(
    environment: Environment, tmp_path: Path
) -> None:
    directory = environment.distribution("good")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for path in ("../secret", "good/../../secret", str(secret)):
        environment.line(directory, f"{path},{record_hash(b'other')},5")
    (part,) = checked(environment)
    assert part["findings"] == []
    assert [each["path"] for each in part["outside"]] == ["../secret", "good/../../secret", str(secret)]
    assert part["distributions"][0]["outside"] == 3


def test_a_link_is_not_followed_even_when_its_target_has_the_listed_content(
    environment: Environment, tmp_path: Path
) -> None:
    directory = environment.distribution("good")
    (tmp_path / "target.py").write_bytes(b"the same")
    environment.line(directory, f"good/link.py,{record_hash(b'the same')},8")
    (environment.root / "good" / "link.py").symlink_to(tmp_path / "target.py")
    assert findings(environment) == [("not_regular", "good/link.py")]


def test_a_linked_folder_is_not_entered(environment: Environment, tmp_path: Path) -> None:
    directory = environment.distribution("good")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "module.py").write_bytes(b"")
    environment.line(directory, f"linked/module.py,{record_hash(b'')},0")
    (environment.root / "linked").symlink_to(tmp_path / "folder")
    assert findings(environment) == [("missing", "linked/module.py"), ("unlisted", "linked")]


def test_a_file_listed_without_a_hash_cannot_be_checked_and_is_found(environment: Environment) -> None:
    directory = environment.distribution("good")
    environment.write("good/blank.py", b"")
    environment.line(directory, "good/blank.py,,")
    assert findings(environment) == [("unhashed", "good/blank.py")]


def test_every_strong_hash_is_compared(environment: Environment) -> None:
    directory = environment.distribution("good")
    environment.write("good/long.py", b"long")
    environment.line(directory, f"good/long.py,{record_hash(b'long', 'sha512')},4")
    environment.write("good/wrong.py", b"wrong")
    environment.line(directory, f"good/wrong.py,{record_hash(b'right', 'blake2b')},5")
    assert findings(environment) == [("changed", "good/wrong.py")]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("good/x.py,md5=rL0Y20zC-Fzt72VPzMSk2A,3", "names a hash that is unknown or too weak"),
        ("good/x.py,sha1=C-7Hteo_D9vJXQ3UfzxbwnXaijM,3", "names a hash that is unknown or too weak"),
        ("good/x.py,sha256=not base64!,3", "holds a hash that is not base64"),
        ("good/x.py,sha256=####,3", "holds a hash that is not base64"),
        ("good/x.py", "is not a path, a hash and a size"),
        (",,", "is not a path, a hash and a size"),
        ('"good/x.py,,', "unexpected end of data"),
    ],
)
def test_a_line_that_makes_no_sense_is_found_and_the_rest_is_still_checked(
    environment: Environment, line: str, mistake: str
) -> None:
    directory = environment.distribution("good")
    environment.write("good/module_0.py", b"tampered")
    environment.line(directory, line)
    (part,) = checked(environment)
    assert ("changed", "good/module_0.py") in findings(environment)
    details = [each["detail"] for each in part["findings"] if each["kind"] == "bad_record"]
    assert len(details) == 1
    assert details[0].endswith(mistake)


def test_a_file_without_its_record_line_is_unlisted(environment: Environment) -> None:
    environment.distribution("good")
    (environment.root / "good-1.0.dist-info" / "RECORD").unlink()
    kinds = {kind for kind, _ in findings(environment)}
    assert kinds == {"unlisted"}
    assert len(findings(environment)) == 4


def test_shards_together_see_each_file_once_whatever_their_number(environment: Environment) -> None:
    for name in ("a", "b", "c", "d", "e"):
        environment.distribution(name)
        environment.write(f"{name}/module_0.py", name.encode())
        environment.write(f"{name}/extra.py", b"")
    environment.write("loose.py", b"")
    seen = []
    for shards in (1, 2, 4, 7):
        parts = checked(environment, shards)
        everything = [(each["kind"], each["path"]) for part in parts for each in part["findings"]]
        seen.append((sorted(everything), sum(part["loose"] for part in parts)))
        assert len(everything) == 5 + 5 + 1
    assert all(one == seen[0] for one in seen)


def test_names_that_are_not_utf8_are_written_out_and_never_confused(environment: Environment) -> None:
    environment.distribution("good")
    raw = os.fsencode(environment.root / "good") + b"/odd\xff.py"
    Path(os.fsdecode(raw)).write_bytes(b"")
    environment.write("good/odd\\xff.py", b"")
    assert findings(environment) == [("unlisted", "good/odd\\\\xff.py"), ("unlisted", "good/odd\\xff.py")]
    assert shown("odd\udcff") != shown("odd\\xff")


def test_a_record_with_a_quoted_path_lists_that_path() -> None:
    record = parse_record(b'"a ""b"", c\nd.py",,\n')
    assert [each.path for each in record.listed] == ['a "b", c\nd.py']


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a/b.py", "a/b.py"),
        ("a/../b.py", "b.py"),
        ("./a.py", "a.py"),
        ("../a.py", None),
        ("/a.py", None),
        ("//a.py", None),
        ("a/../..", None),
        (".", None),
    ],
)
def test_a_listed_path_stays_inside_or_has_no_place(written: str, path: str | None) -> None:
    assert inside(written) == path
