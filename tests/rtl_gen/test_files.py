"""Files that appear whole, and hashes that are remembered only while nothing has touched the file."""

import hashlib
import os

import pytest
from llmrtl.rtl_gen import files
from llmrtl.rtl_gen.files import file_sha256, replacing, write_atomically


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMRTL_BUILD", str(tmp_path / "build"))
    path = tmp_path / "data.bin"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were read to be hashed."""
    seen, original = [], hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda stream, name: seen.append(stream.name) or original(stream, name))
    return seen


def digest(contents):
    return hashlib.sha256(contents).hexdigest()


def settle(monkeypatch):
    """Trust files of any age, as if the test waited."""
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1)


def test_untouched_file_is_read_once(file, reads, monkeypatch):
    settle(monkeypatch)
    assert [file_sha256(file) for _ in range(3)] == 3 * [digest(b"first")]
    assert len(reads) == 1
    assert file_sha256(file, fresh=True) == digest(b"first") and len(reads) == 2


def test_new_file_is_not_remembered(file, reads):
    assert file_sha256(file) == file_sha256(file) == digest(b"first")
    assert len(reads) == 2
    file.write_bytes(b"other")
    assert file_sha256(file) == digest(b"other")


@pytest.mark.parametrize("touch", ["in place", "replaced", "truncated", "times set back"])
def test_touched_file_is_read_again(file, reads, monkeypatch, touch):
    settle(monkeypatch)
    file_sha256(file)
    before = file.stat()
    while file_sha256(file) and file.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of the file system ticks
        contents = {"truncated": b"fir"}.get(touch, b"other")
        if touch == "replaced":
            write_atomically(file, contents)
        else:
            file.write_bytes(contents)
        if touch == "times set back":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_sha256(file) == digest(contents)


def test_damaged_memory_does_not_matter(file, reads, monkeypatch):
    settle(monkeypatch)
    file_sha256(file)
    (memory,) = (files.build_root() / "cache" / "sha256").iterdir()
    for junk in ("", "[]", "{}", "\x00"):
        memory.write_text(junk)
        assert file_sha256(file) == digest(b"first")


def test_build_folder_that_cannot_be_written(file, monkeypatch):
    settle(monkeypatch)
    monkeypatch.setenv("LLMRTL_BUILD", str(file / "below-a-file"))
    assert file_sha256(file) == digest(b"first")


def test_replacing_is_all_or_nothing(file):
    with pytest.raises(RuntimeError), replacing(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert file.read_bytes() == b"first"
    with replacing(file) as stream:
        stream.write(b"second")
        assert file.read_bytes() == b"first"
    assert file.read_bytes() == b"second"
    assert [each.name for each in file.parent.iterdir()] == ["data.bin"]
