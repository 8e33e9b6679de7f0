"""What is printed is kept once, within its cap, redacted, and can be read from its file while more is printed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sovrun.sandbox.capture import STDERR, STDOUT, Capture, Log, LogLimit
from sovrun.sandbox.redaction import Redaction

MEBIBYTE = 1 << 20


def pieces(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def text_of(path: Path, stream: str) -> str:
    return "".join(piece["text"] for piece in pieces(path) if piece["stream"] == stream)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "step" / "1.ndjson"


def test_each_piece_is_in_the_file_as_soon_as_it_came(path) -> None:
    log = Log(100, str(path))
    assert log.take(STDOUT, b"no end yet")
    assert text_of(path, STDOUT) == "no end yet"
    assert log.take(STDERR, b"trouble\n")
    assert [(piece["stream"], piece["text"]) for piece in pieces(path)] == [
        ("stdout", "no end yet"),
        ("stderr", "trouble\n"),
    ]
    times = [piece["timeUs"] for piece in pieces(path)]
    assert times == sorted(times)
    assert log.taken() == b"no end yettrouble\n"
    log.close()


def test_nothing_printed_leaves_no_file(path) -> None:
    Log(100, str(path)).close()
    assert not path.exists()


def test_the_file_is_for_its_owner_alone_whatever_the_umask(path) -> None:
    before = os.umask(0)
    try:
        log = Log(100, str(path))
        log.take(STDOUT, b"x")
        log.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]] == [0o700, 0o700]


def test_a_link_in_the_place_of_the_file_is_not_followed(path, tmp_path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    log = Log(100, str(path))
    assert log.take(STDOUT, b"x")
    log.close()
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_cannot_be_written_does_not_hurt_the_step(tmp_path) -> None:
    (tmp_path / "file").touch()
    log = Log(100, str(tmp_path / "file" / "1.ndjson"))
    assert log.take(STDOUT, b"said")
    log.close()
    assert log.taken() == b"said"


def test_a_character_cut_in_two_comes_out_whole_and_what_is_no_text_as_its_bytes(path) -> None:
    log = Log(100, str(path))
    for byte in "grün\n".encode():
        log.take(STDOUT, bytes([byte]))
    log.take(STDERR, b"\xff\xfe\x1b[31m\xc3")
    log.close()
    assert text_of(path, STDOUT) == "grün\n"
    assert text_of(path, STDERR) == "\\xff\\xfe\x1b[31m\\xc3"
    assert path.read_bytes().isascii(), "showing the file itself must not move a terminal"
    assert b"\x1b" not in path.read_bytes()


def test_more_than_the_cap_is_dropped_and_said(path) -> None:
    log = Log(10, str(path))
    assert log.take(STDOUT, b"12345678")
    assert log.take(STDERR, b"90")
    assert not log.is_full
    assert not log.take(STDOUT, b"more")
    assert log.is_full
    log.close()
    assert log.taken() == b"1234567890"
    assert "more" not in path.read_text()


@pytest.mark.parametrize("piece", [b"x", b"\0", b"\n"])
def test_tiny_pieces_do_not_fill_the_disk(path, piece) -> None:
    cap = 200_000
    log = Log(cap, str(path))
    for _ in range(cap):
        log.take(STDOUT, piece)
    log.close()
    assert text_of(path, STDOUT) == (piece * cap).decode()
    assert path.stat().st_size < 12 * cap


def test_no_line_of_the_file_is_longer_than_a_reader_takes(path) -> None:
    log = Log(4 * MEBIBYTE, str(path))
    log.take(STDOUT, b"\0" * 3 * MEBIBYTE)
    log.close()
    assert max(map(len, path.read_bytes().splitlines())) < MEBIBYTE
    assert text_of(path, STDOUT) == "\0" * 3 * MEBIBYTE


def test_a_secret_that_is_cut_in_pieces_reaches_neither_file_nor_memory(path) -> None:
    log = Log(1_000, str(path), Redaction([b"hunter2-hunter2"]))
    for byte in b"pass hunter2-hunter2 word\n":
        log.take(STDERR, bytes([byte]))
    log.take(STDOUT, b"hunter2-h")
    log.close()
    assert log.taken() == b"pass *** word\nhunter2-h"
    assert text_of(path, STDERR) == "pass *** word\n"
    assert log.last_words() == "pass *** word"


def test_streams_are_redacted_apart(path) -> None:
    log = Log(1_000, str(path), Redaction([b"hunter2-hunter2"]))
    log.take(STDOUT, b"hunter2")
    log.take(STDERR, b"between\n")
    log.take(STDOUT, b"-hunter2\n")
    log.close()
    assert text_of(path, STDOUT) == "***\n"
    assert text_of(path, STDERR) == "between\n"


def test_what_print_hands_over_in_parts_is_one_piece_a_line(path) -> None:
    capture = Capture()
    capture.begin(1_000, str(path))
    print("a", "b", "c", file=capture.stdout)
    print("no end", end="", file=capture.stdout)
    assert [piece["text"] for piece in pieces(path)] == ["a b c\n"]
    capture.stdout.flush()
    assert [piece["text"] for piece in pieces(path)] == ["a b c\n", "no end"]
    assert capture.end() == b"a b c\nno end"


def test_one_capture_serves_many_steps_and_mixes_nothing(path) -> None:
    capture = Capture()
    capture.begin(4, str(path))
    with pytest.raises(LogLimit):
        capture.stdout.write("12345")
    assert capture.exceeded
    with pytest.raises(LogLimit):
        capture.stderr.write("6")
    assert capture.end() == b"1234"
    capture.begin(4, str(path.with_name("2.ndjson")))
    assert not capture.exceeded
    capture.stderr.write("ok")
    assert capture.end() == b"ok"
    assert text_of(path, STDOUT) == "1234"
    assert text_of(path.with_name("2.ndjson"), STDERR) == "ok"
