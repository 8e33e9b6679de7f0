"""What is opened below a directory lies below it, by the kernel's own rule and by ours where the kernel is too old."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovrun.sandbox import beneath

Opener = Callable[[int, str, int], int]


@pytest.fixture(params=[beneath.open_beneath, beneath._name_by_name], ids=["openat2", "name by name"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("own")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "near").symlink_to("sub")
    (folder / "magic").symlink_to("/proc/self/root")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_a_file_below_is_opened(opener: Opener, work: int) -> None:
    descriptor = opener(work, "sub/file", os.O_RDONLY)
    assert os.read(descriptor, 9) == b"own"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["link", "near/file", "magic", "magic/etc/passwd", "../outside", "sub/../../outside"]
)
def test_nothing_leads_out_or_through_a_link(opener: Opener, work: int, path: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as refused:  # noqa: PT011 -- which of them, the next line says
        opener(work, path, os.O_RDONLY)
    assert refused.value.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_another_file_system_is_not_entered() -> None:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as refused:  # noqa: PT011 -- which of them, the next line says
            beneath.open_beneath(root, "proc", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root)
    assert refused.value.errno == errno.EXDEV
