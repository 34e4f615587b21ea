"""Places that a command will write to, checked before it begins to work. Nothing is made or changed; errors name the option."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_file", "check_files", "check_folder"]


def check_file(option: str, path: Path) -> None:
    """``ValueError`` unless a file can be written at ``path``. Folders above it that are missing are made when it is written."""
    try:
        if path.is_dir():
            raise ValueError(f"{option} {path}: must be a file, but is a folder")
        if path.exists():
            if not path.is_file():
                raise ValueError(f"{option} {path}: must be a regular file")
            if not os.access(path, os.W_OK):
                raise ValueError(f"{option} {path}: the file is write-protected")
    except OSError as error:
        raise _unwritable(option, path, error) from None
    _check_place(option, path, path.parent)


def check_files(outputs: Iterable[tuple[str, Path]]) -> None:
    """``check_file`` for all; ``ValueError`` too if two of them are one file."""
    taken: dict[Path, str] = {}
    for option, path in outputs:
        check_file(option, path)
        place = path.resolve()
        if place in taken:
            raise ValueError(f"{option} {path}: {taken[place]} is written to this file, too")
        taken[place] = option


def check_folder(option: str, path: Path) -> None:
    """``ValueError`` unless files can be written in ``path``, which is made when they are if it is missing."""
    _check_place(option, path, path)


def _check_place(option: str, path: Path, folder: Path) -> None:
    """Tries the nearest folder above that exists."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise ValueError(f"{option} {path}: {folder} must be a folder, but is a file")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(option, path, error) from None


def _unwritable(option: str, path: Path, error: OSError) -> ValueError:
    return ValueError(f"{option} {path}: cannot be written: {error.strerror or error}")
