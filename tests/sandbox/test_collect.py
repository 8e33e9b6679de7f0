"""A work directory is read as if an attacker had chosen every name and byte; frames likewise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovrun.sandbox import wire
from sovrun.sandbox.collect import Refused, Spool, collect_made, collect_outputs
from sovrun.sandbox.refusals import explain
from sovrun.sandbox.verdicts import cut
from sovrun.step import MADE, tree_manifest


@pytest.fixture
def work(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    folder = tmp_path / "work"
    (folder / MADE).mkdir(parents=True)
    (folder / "outputs").mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield folder, descriptor
    os.close(descriptor)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    folder = tmp_path / "spool"
    folder.mkdir()
    return Spool(folder, "1", bytes_left=1000, files_left=100)


def keep(folder: Path, data: bytes) -> str:
    digest = sha256(data).hexdigest()
    (folder / MADE / digest).write_bytes(data)
    return digest


def returning_tree(folder: Path, manifest: bytes) -> bytes:
    return json.dumps({"$tree": keep(folder, manifest)}).encode()


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", "", "a/..", "a\0b"])
def test_a_tree_whose_paths_leave_it_is_refused(work, spool, path) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    with pytest.raises(Refused, match="not well-formed"):
        collect_made(
            descriptor, returning_tree(folder, tree_manifest([(path, False, digest, 1)])), frozenset(), spool
        )


@pytest.mark.parametrize(
    "entries",
    [
        [("a", False, "x", 1), ("a", False, "x", 1)],
        [("a", False, "x", 1), ("a/b", False, "x", 1)],
    ],
)
def test_a_tree_that_names_a_path_twice_is_refused(work, spool, entries) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    manifest = tree_manifest([(path, flag, digest, size) for path, flag, _, size in entries])
    with pytest.raises(Refused, match="not well-formed"):
        collect_made(descriptor, returning_tree(folder, manifest), frozenset(), spool)


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b'{"files": 1}', b'{"files":[[1]]}', b"[" * 100_000, b'{"files":[]}']
)
def test_a_tree_in_any_other_form_than_ours_is_refused(work, spool, manifest) -> None:
    folder, descriptor = work
    spool.bytes_left = 1 << 20
    with pytest.raises(Refused, match="not well-formed"):
        collect_made(descriptor, returning_tree(folder, manifest), frozenset(), spool)


def test_a_tree_that_lies_about_a_size_is_refused(work, spool) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    with pytest.raises(Refused, match="another size"):
        collect_made(
            descriptor, returning_tree(folder, tree_manifest([("a", False, digest, 9)])), frozenset(), spool
        )


def test_a_kept_file_that_is_a_link_is_refused(work, spool) -> None:
    folder, descriptor = work
    digest = sha256(b"x").hexdigest()
    (folder / "elsewhere").write_bytes(b"x")
    (folder / MADE / digest).symlink_to(folder / "elsewhere")
    with pytest.raises(Refused, match="symbolic link"):
        collect_made(descriptor, json.dumps({"$file": digest, "size": 1}).encode(), frozenset(), spool)


def test_a_made_directory_that_is_a_link_is_refused(work, spool) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    (folder / MADE).rename(folder / "elsewhere")
    (folder / MADE).symlink_to(folder / "elsewhere")
    with pytest.raises(Refused):
        collect_made(descriptor, json.dumps({"$file": digest, "size": 1}).encode(), frozenset(), spool)


def test_escaped_spelling_does_not_hide_a_file(work, spool) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    collect_made(descriptor, f'{{"\\u0024file":"{digest}","size":1}}'.encode(), frozenset(), spool)
    assert spool.made == {digest: 1}


def test_more_bytes_than_the_cap_are_refused_before_they_are_copied(work, spool) -> None:
    folder, descriptor = work
    with (folder / "outputs" / "big").open("wb") as big:
        big.truncate(1 << 22)
    with pytest.raises(Refused) as refused:
        collect_outputs(descriptor, spool, 1000)
    assert refused.value.reason == "disk_limit"
    assert sum(path.stat().st_size for path in spool.folder.iterdir()) <= 1000


def test_directories_deeper_than_the_cap_are_refused(work, spool) -> None:
    folder, descriptor = work
    (folder / "outputs" / Path(*["d"] * 40)).mkdir(parents=True)
    with pytest.raises(Refused, match="deeper"):
        collect_outputs(descriptor, spool, 1000)


def test_a_name_that_is_not_utf8_is_refused(work, spool) -> None:
    folder, descriptor = work
    (folder / "outputs" / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(Refused, match="not UTF-8"):
        collect_outputs(descriptor, spool, 1000)


def test_an_output_larger_than_its_cap_is_refused(work, spool) -> None:
    folder, descriptor = work
    for n in range(3):
        (folder / "outputs" / f"{n}.json").write_text(json.dumps("x" * 400))
    with pytest.raises(Refused) as refused:
        collect_outputs(descriptor, spool, 1000)
    assert refused.value.reason == "output_too_large"


def test_numbers_come_out_as_they_were_written(work, spool) -> None:
    folder, descriptor = work
    (folder / "outputs" / "n.json").write_text(" 1.10 ")
    assert collect_outputs(descriptor, spool, 1000) == b'{"n": 1.10 }'


def test_a_file_whose_digest_is_among_the_inputs_is_not_taken_again(work, spool) -> None:
    folder, descriptor = work
    digest = keep(folder, b"x")
    collect_made(descriptor, json.dumps({"$file": digest, "size": 1}).encode(), frozenset({digest}), spool)
    assert spool.made == {}


@given(
    st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.lists(st.binary()))), st.integers(1, 64)
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames, size) -> None:
    frames = [
        ({name: value for name, value in head.items() if name != "parts"}, parts) for head, parts in frames
    ]
    stream = b"".join(wire.encode(head, *parts) for head, parts in frames)
    decoder = wire.Decoder(body_max=1 << 20)
    out = [frame for at in range(0, len(stream), size) for frame in decoder.feed(stream[at : at + size])]
    assert [({k: v for k, v in head.items() if k != "parts"}, parts) for head, parts in out] == frames


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused_or_waited_for_but_never_break_the_reader(data) -> None:
    decoder = wire.Decoder(body_max=100, head_max=100)
    with suppress(wire.BadFrame):
        assert decoder.feed(data) == [] or data


def test_a_frame_beyond_the_cap_is_refused_at_its_first_eight_bytes() -> None:
    with pytest.raises(wire.BadFrame):
        wire.Decoder(body_max=10).feed(wire.encode({}, b"x" * 11)[:8])


def test_a_refusal_that_nobody_foresaw_still_quotes_what_was_said() -> None:
    refusal = explain("bwrap: something new")
    assert "something new" in refusal.detail
    assert refusal.fix


def test_cut_text_says_that_it_was_cut() -> None:
    assert cut("é" * 10, 5) == "éé ... (cut)"
    assert cut("short", 5) == "short"
