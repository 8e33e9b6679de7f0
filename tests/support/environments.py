"""A small Python environment, made by hand, that tests break on purpose."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path


def record_hash(data: bytes, algorithm: str = "sha256") -> str:
    """Return a hash as RECORD writes it."""
    digest = hashlib.new(algorithm, data).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@dataclass
class Environment:
    """A site-packages directory at `root`."""

    root: Path
    lines: dict[str, list[str]] = field(default_factory=dict)

    def write(self, path: str, data: bytes) -> None:
        """Put a file, listed nowhere."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def listed(self, directory: str, path: str, data: bytes) -> None:
        """Put a file and list it in the RECORD of `directory`."""
        self.write(path, data)
        self.line(directory, f"{path},{record_hash(data)},{len(data)}")

    def line(self, directory: str, line: str) -> None:
        """Add a line to the RECORD of `directory`."""
        self.lines.setdefault(directory, [f"{directory}/RECORD,,"]).append(line)
        self.write(f"{directory}/RECORD", ("\n".join(self.lines[directory]) + "\n").encode())

    def distribution(self, name: str, version: str = "1.0", *, fields: str = "", files: int = 2) -> str:
        """Install an intact distribution with `files` modules; return its metadata directory."""
        directory = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{fields}\n\nA description.\n"
        self.listed(directory, f"{directory}/METADATA", metadata.encode())
        self.listed(directory, f"{directory}/INSTALLER", b"pip\n")
        for number in range(files):
            self.listed(directory, f"{name}/module_{number}.py", f"VALUE = {number}\n".encode())
        return directory
