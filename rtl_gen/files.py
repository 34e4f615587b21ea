"""Files that appear whole or not at all, and hashes of large files, remembered as long as a file is left alone.

A remembered hash counts only if device, inode, size, modification time and change time are all what they were when the file
was hashed. No program can set the change time, so whatever writes, truncates or replaces a file changes one of them. A file
that was written less than ``SETTLED_SECONDS`` before is not remembered: file systems stamp in ticks of milliseconds, and a
second write in the tick of the hash would go unnoticed (git's "racy" index entries). Damage below the file system goes
unnoticed until the file is hashed again: that is what ``fresh`` is for.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .yowasp import build_root

__all__ = ["SETTLED_SECONDS", "file_sha256", "replacing", "write_atomically"]

SETTLED_SECONDS = 2.0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file in the same folder, which becomes ``path`` at the end and vanishes if an exception ends the block.

    ``OSError`` names the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_atomically(path: Path, contents) -> None:
    """Write a whole file or nothing. ``OSError`` names the path."""
    with replacing(path) as file:
        file.write(contents)


def file_sha256(path: Path, *, fresh: bool = False) -> str:
    """SHA-256 of a file in hexadecimal digits; ``fresh``: read it in any case. ``OSError`` if it cannot be read."""
    path = Path(path).resolve()
    memory = build_root() / "cache" / "sha256" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    before = _identity(path)
    if not fresh and (known := _remembered(memory)) is not None and known["identity"] == before:
        return known["sha256"]
    started = time.time_ns()
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if started - max(before[-2:]) >= SETTLED_SECONDS * 1e9 and _identity(path) == before:
        with contextlib.suppress(OSError):  # a build folder that cannot be written costs time, nothing else
            write_atomically(memory, json.dumps({"path": str(path), "identity": before, "sha256": digest}).encode())
    return digest


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remembered(memory: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(memory.read_text())
        return content if {"identity", "sha256"} <= content.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
