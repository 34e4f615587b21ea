"""The memory image: what compile writes, the golden machine executes and a board loads.

An image is two files: ``NAME.bin`` (the bytes at memory address 0 onwards) and ``NAME.json`` (the manifest: format
version, sizes, SHA-256, addresses, accelerator configuration, model shape, sections and operation names). Prompt buffer
and KV cache lie behind the bytes of the file and need no initial contents.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..accelerators.config import AcceleratorConfig
from ..accelerators.control.regmap import config_hash
from ..accelerators.model_shape import ModelShape
from .files import file_sha256, write_atomically

__all__ = ["FORMAT_VERSION", "Eviction", "Image", "ImageError", "MemoryMap", "Retrieval", "Section", "Window", "image_files"]

FORMAT_VERSION = 1


class ImageError(ValueError):
    """An image file that is damaged, truncated or of another version; the message names the file and the rule."""


def image_files(stem: Path) -> tuple[Path, Path]:
    """``stem.bin`` and ``stem.json``. A stem may have dots; if it is one of the two files, that image is meant."""
    stem = Path(stem)
    if stem.suffix in (".bin", ".json"):
        stem = stem.with_suffix("")
    return stem.with_name(stem.name + ".bin"), stem.with_name(stem.name + ".json")


@dataclass(frozen=True)
class Section:
    """A named range of the image: byte address, bytes, and what it holds."""

    name: str
    address: int
    bytes: int
    kind: str


@dataclass(frozen=True)
class Window:
    """What a token sees of a text of up to ``positions``: the first ``sinks`` of them and the latest ``recent`` ones, itself
    included (StreamingLLM, arXiv:2309.17453)."""

    sinks: int
    recent: int
    positions: int


@dataclass(frozen=True)
class Eviction:
    """What stays of a text of up to ``positions`` in a KV cache with a budget of rows: always the first ``sinks`` positions and the
    last ``recent`` ones before a token; of the others what has the largest scores. What goes is merged into a row whose key has a
    cosine of at least ``threshold / 4096``, or dropped (EMS, arXiv:2412.08521)."""

    sinks: int
    recent: int
    positions: int
    threshold: int


@dataclass(frozen=True)
class Retrieval:
    """What a token sees of a text: the ``blocks`` blocks whose mean keys fit the chunk's queries best, and the latest ``local``
    positions at least (ReKV, arXiv:2503.00540). ``records``: of a table of means, per KV head, behind its rows."""

    blocks: int
    local: int
    records: int


@dataclass(frozen=True, kw_only=True)
class MemoryMap:
    """Where everything of a compiled model lies.

    Parameters
    ----------
    config, model : what it was compiled for.
    memory_bytes : bytes of memory in use, prompt buffer and KV cache included.
    program_address, prompt_address : byte addresses.
    kv_capacity, kv_record_beats, kv_head_stride : positions (of all blocks, if it is paged; the budget, if there is one), bus words per
        record, bytes from head to head.
    operations : tag -> name, e.g. ``"layer 3 gate+up"``.
    sections : ranges of the image.
    window, eviction : of a KV cache that does not keep all positions, of either kind, else ``None``.
    retrieval : of a program that lets attention see some blocks only, else ``None``.
    """

    config: AcceleratorConfig
    model: ModelShape
    memory_bytes: int
    program_address: int
    prompt_address: int
    kv_capacity: int
    kv_record_beats: int
    kv_head_stride: int
    operations: list[str]
    sections: list[Section]
    window: Window | None = None
    eviction: Eviction | None = None
    retrieval: Retrieval | None = None

    @property
    def positions(self) -> int:
        """Positions of the longest text."""
        if self.config.cache == "paged":
            return min(self.model.max_context, self.config.max_context)
        kept = self.window or self.eviction
        return self.kv_capacity if kept is None else kept.positions

    def chunk_room(self, position: int) -> int | None:
        """Most tokens that the KV cache takes at a time, the first one at ``position``; ``None`` if it does not mind."""
        return None if self.eviction is None else max(1, self.kv_capacity - position)

    def prompt_chunks(self, length: int, position: int = 0) -> list[int]:
        """Tokens of each chunk in which the hardware takes a prompt that begins at ``position``."""
        chunks: list[int] = []
        while (left := length - sum(chunks)) > 0:
            room = self.chunk_room(position + sum(chunks))
            chunks.append(min(left, self.config.token_lanes, room or left))
        return chunks

    @property
    def kv_address(self) -> int:
        """Byte address of the KV cache, which is the last in memory but for ``kv_swap_address``."""
        return self.kv_swap_address - self.model.layers * self.model.kv_heads * self.kv_head_stride

    @property
    def kv_swap_stride(self) -> int:
        """Bytes from head to head where sequences are that have left the KV cache."""
        return self.config.swap_slots * self.config.block_size * self.kv_record_beats * self.config.bus_bytes

    @property
    def kv_swap_address(self) -> int:
        """Byte address of that place, the end of memory if there is none."""
        return self.memory_bytes - self.model.layers * self.model.kv_heads * self.kv_swap_stride


@dataclass(frozen=True, kw_only=True)
class Image(MemoryMap):
    """A compiled model: a ``MemoryMap`` and what lies there.

    Parameters
    ----------
    data : uint8 array, the bytes from address 0: a read-only map of a file.
    sha256 : hash of ``data``.
    fraction_bits : of the residual stream.
    checkpoint_sha256 : hash of the checkpoint.
    """

    data: np.ndarray
    sha256: str
    fraction_bits: int
    checkpoint_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, stem: Path) -> None:
        """Write ``stem.bin``, then ``stem.json``; neither is ever seen in part."""
        write_atomically(image_files(stem)[0], self.data.data)
        self.save_manifest(stem)

    def save_manifest(self, stem: Path) -> None:
        """Write ``stem.json``."""
        manifest = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "data"}
        manifest |= {"config": asdict(self.config), "model": asdict(self.model),
                     "sections": [asdict(section) for section in self.sections],
                     "window": self.window and asdict(self.window), "eviction": self.eviction and asdict(self.eviction),
                     "retrieval": self.retrieval and asdict(self.retrieval),
                     "format_version": FORMAT_VERSION, "config_hash": config_hash(self.config), "bytes": int(self.data.size)}
        write_atomically(image_files(stem)[1], (json.dumps(manifest, indent=1) + "\n").encode())

    @classmethod
    def load(cls, stem: Path, *, fresh: bool = False) -> "Image":
        """Map and verify; ``ImageError`` for a missing, truncated, damaged or foreign file.

        A file that was verified before and has not been touched since is not read again, unless ``fresh``.
        """
        data_path, manifest_path = image_files(stem)
        try:
            manifest = json.loads(manifest_path.read_text())
            data = np.memmap(data_path, dtype=np.uint8, mode="r")
        except FileNotFoundError as error:
            raise ImageError(f"{error.filename}: no such image file") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ImageError(f"{manifest_path}: the manifest is not JSON: {error}") from None
        except ValueError:
            raise ImageError(f"{data_path}: the image is empty") from None
        found = manifest.pop("format_version", None)
        if found != FORMAT_VERSION:
            raise ImageError(f"{manifest_path}: image format version must be {FORMAT_VERSION}, not {found}; compile it again")
        manifest.pop("config_hash", None)  # for drivers
        size, digest = manifest.pop("bytes"), manifest["sha256"]
        if data.size != size:
            raise ImageError(f"{data_path}: must have {size} bytes, has {data.size}: truncated or overwritten")
        if file_sha256(data_path, fresh=fresh) != digest:
            raise ImageError(f"{data_path}: SHA-256 differs from the manifest's {digest[:16]}...: damaged")
        manifest["config"] = AcceleratorConfig.from_json(manifest["config"])
        manifest["model"] = ModelShape.from_json(manifest["model"])
        manifest["sections"] = [Section(**section) for section in manifest["sections"]]
        for name, kind in (("window", Window), ("eviction", Eviction), ("retrieval", Retrieval)):
            manifest[name] = kind(**manifest[name]) if manifest.get(name) else None
        return cls(data=data, **manifest)
