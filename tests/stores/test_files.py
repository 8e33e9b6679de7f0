"""Code, input files and directories are kept as they were taken in, or refused by name when they are not any more."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
from pathlib import Path

import pytest

from sovrun.core.canonical import canonical
from sovrun.core.errors import CodeUnavailable, FileUnavailable, StoreUnavailable
from sovrun.core.identity import CodeFile, code_digest
from sovrun.core.ids import Digest, Tenant
from sovrun.ports import MadeFile
from sovrun.stores.files import FileStore, ScratchFiles

T, OTHER = Tenant("default"), Tenant("other")


def sha(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


@pytest.fixture
def kept(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store.files")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "a.py").write_text("A = 1\n")
    (root / "b.txt").write_text("b")
    return root


def test_a_file_is_copied_and_found_by_its_digest(kept: FileStore, tmp_path: Path) -> None:
    file = tmp_path / "input.bin"
    file.write_bytes(b"hello")
    assert kept.take_in(T, file) == {"$file": sha(b"hello"), "size": 5}
    file.write_bytes(b"changed")
    assert kept.locate(T, sha(b"hello")).read_bytes() == b"hello"
    assert kept.get(T, sha(b"hello")) == b"hello"


def test_files_belong_to_one_tenant(kept: FileStore, tmp_path: Path) -> None:
    file = tmp_path / "input.bin"
    file.write_bytes(b"secret")
    kept.take_in(T, file)
    assert kept.get(OTHER, sha(b"secret")) is None
    with pytest.raises(FileUnavailable):
        kept.locate(OTHER, sha(b"secret"))


def test_a_directory_is_read_in_place_and_named_by_its_listing(kept: FileStore, tree: Path) -> None:
    value = kept.take_in(T, tree)
    listing = [["b.txt", False, sha(b"b"), 1], ["pkg/a.py", False, sha(b"A = 1\n"), 6]]
    manifest = canonical({"files": listing, "kind": "sovrun.tree", "version": 1})
    assert value == {"$tree": sha(manifest)}
    assert kept.locate(T, sha(manifest)) == tree
    assert kept.get(T, sha(manifest)) == manifest


@pytest.mark.parametrize("change", ["edit", "add", "remove", "mode", "link"])
def test_a_directory_that_changed_is_refused_and_the_file_named(
    kept: FileStore, tree: Path, change: str
) -> None:
    digest = Digest(str(kept.take_in(T, tree)["$tree"]))
    file = tree / "pkg" / "a.py"
    if change == "edit":
        file.write_text("A = 2\n")
        os.utime(file, ns=(1, 1))
    elif change == "add":
        (tree / "pkg" / "a.py2").write_text("")
    elif change == "remove":
        file.unlink()
    elif change == "mode":
        file.chmod(0o755)
    else:
        file.unlink()
        file.symlink_to("/etc/passwd")
    with pytest.raises(FileUnavailable, match=r"pkg/a\.py"):
        kept.locate(T, digest)


def test_caches_in_a_directory_do_not_count(kept: FileStore, tree: Path) -> None:
    before = kept.take_in(T, tree)
    (tree / "pkg" / "__pycache__").mkdir()
    (tree / "pkg" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (tree / "pkg" / "old.pyc").write_bytes(b"x")
    assert kept.take_in(T, tree) == before
    assert kept.locate(T, Digest(str(before["$tree"]))) == tree


def test_links_count_by_where_they_point(kept: FileStore, tree: Path) -> None:
    (tree / "link").symlink_to("b.txt")
    first = kept.take_in(T, tree)
    (tree / "link").unlink()
    (tree / "link").symlink_to("pkg/a.py")
    assert kept.take_in(T, tree) != first


def test_things_that_are_no_files_are_refused(kept: FileStore, tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(FileUnavailable, match="pipe"):
        kept.take_in(T, tree)
    with pytest.raises(FileUnavailable):
        kept.take_in(T, tmp_path / "missing")
    with pytest.raises(FileUnavailable):
        kept.take_in(T, Path("/dev/null"))


def test_a_tree_that_a_step_made_is_unfolded(kept: FileStore, tmp_path: Path) -> None:
    body = b"made"
    manifest = canonical({"files": [["d/x", True, sha(body), 4]], "kind": "sovrun.tree", "version": 1})
    for content in (body, manifest):
        made = kept.spool / "made"
        made.write_bytes(content)
        kept.adopt(T, MadeFile(sha(content), len(content), made))
        assert not made.exists()
    place = kept.locate(T, sha(manifest))
    assert (place / "d" / "x").read_bytes() == body
    assert os.access(place / "d" / "x", os.X_OK)


def test_code_is_its_files_without_caches_documents_and_stores(kept: FileStore, tree: Path) -> None:
    expected = code_digest(
        [
            CodeFile("b.txt", executable=False, digest=sha(b"b")),
            CodeFile("pkg/a.py", executable=False, digest=sha(b"A = 1\n")),
        ]
    )
    dag = tree / "dag"
    dag.write_text("the DAG itself, whatever it is called")
    (tree / "twin.json").write_text('{"apiVersion": "sovrun/v1"}')
    (tree / "pkg" / "__pycache__").mkdir()
    (tree / "pkg" / "__pycache__" / "a.pyc").write_bytes(b"x")
    store = sqlite3.connect(tree / "runs.db")
    store.execute("PRAGMA application_id = 0x534F5652")
    store.execute("CREATE TABLE t (a)")
    store.close()
    (tree / "runs.db-wal").write_bytes(b"x")
    (tree / "runs.db.lock").write_bytes(b"1")
    own = FileStore(tree / "runs.db.files")
    own.put(T, sha(b"payload"), b"payload")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tree / "runs.db.sock"))
        assert kept.take_code(tree, None, dag).digest == expected


def test_data_beside_the_code_is_code(kept: FileStore, tree: Path) -> None:
    before = kept.take_code(tree, None, None).digest
    (tree / "table.json").write_text("{}")
    assert kept.take_code(tree, None, None).digest != before


def test_code_may_be_narrowed(kept: FileStore, tree: Path) -> None:
    assert kept.take_code(tree, ("pkg",), None).digest == code_digest(
        [CodeFile("pkg/a.py", executable=False, digest=sha(b"A = 1\n"))]
    )
    nothing = kept.take_code(tree, (), None)
    assert (nothing.digest, nothing.path) == (code_digest([]), None)
    with pytest.raises(CodeUnavailable, match="lib"):
        kept.take_code(tree, ("lib",), None)


def test_the_kept_code_does_not_follow_its_source(kept: FileStore, tree: Path) -> None:
    code = kept.take_code(tree, None, None)
    (tree / "b.txt").write_text("other")
    assert code.path is not None
    assert (code.path / "b.txt").read_text() == "b"
    assert kept.code(code.digest) == code


def test_kept_code_that_was_tampered_with_is_refused(kept: FileStore, tree: Path, tmp_path: Path) -> None:
    code = kept.take_code(tree, None, None)
    assert code.path is not None
    (code.path / "b.txt").chmod(0o644)
    (code.path / "b.txt").write_text("evil")
    with pytest.raises(CodeUnavailable, match="changed"):
        FileStore(tmp_path / "store.files").code(code.digest)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_kept_code_can_be_read_by_a_steps_own_user(kept: FileStore, tree: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        code = kept.take_code(tree, None, None)
    finally:
        os.umask(before)
    assert code.path is not None
    for path in (code.path, *code.path.rglob("*")):
        assert path.stat().st_mode & 0o004, path
        assert not path.is_dir() or path.stat().st_mode & 0o001, path


def test_links_and_too_many_files_are_no_code(kept: FileStore, tree: Path, tmp_path: Path) -> None:
    (tree / "link").symlink_to("b.txt")
    with pytest.raises(CodeUnavailable, match="link"):
        kept.take_code(tree, None, None)
    (tree / "link").unlink()
    with pytest.raises(CodeUnavailable, match="more than 1 files"):
        FileStore(tmp_path / "small", code_files_max=1).take_code(tree, None, None)


def test_a_refusing_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.files").write_text("a file where the directory should be")
    with pytest.raises(StoreUnavailable):
        FileStore(tmp_path / "store.files").put(T, sha(b"x"), b"x")


def test_a_scratch_store_reads_the_record_and_writes_beside_it(tmp_path: Path, tree: Path) -> None:
    record, scratch = FileStore(tmp_path / "record"), FileStore(tmp_path / "scratch")
    record.put(T, sha(b"old"), b"old")
    code = record.take_code(tree, None, None)
    both = ScratchFiles(record, scratch)
    both.put(T, sha(b"new"), b"new")
    assert (both.get(T, sha(b"old")), both.get(T, sha(b"new"))) == (b"old", b"new")
    assert record.get(T, sha(b"new")) is None
    assert both.code(code.digest) == code
    assert both.locate(T, sha(b"old")).read_bytes() == b"old"
