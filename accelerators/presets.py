"""Named configurations: each one is a complete accelerator that the tests, benches and tools know.

- ``tiny``: the smallest useful accelerator, for tests and the demonstration; ``tiny_window``: with a KV cache of sinks and a ring,
  ``tiny_paged``: of several sequences, on a wider bus and with four token lanes, ``tiny_swap``: of several that also swaps,
  ``tiny_int4``: of 4-bit elements, ``tiny_evict``: of a budget of rows; ``tiny_modes``: all modes of attention; ``tiny_recompute``:
  with lists of tokens to compute again; ``tiny_retrieval``: with attention to the blocks that fit a query best; ``tiny_short``: on a
  wider bus, of which short K/V rows fill every cycle.
- ``edge``: a ULX3S-class ECP5 board, 16-bit SDRAM behind a 64-bit port.
- ``ulx3s``: for the bitstream of that board: its SDRAM gives 16 bits per cycle, so a 32-bit port and half of the tables do.
- ``kv260``: AMD KV260, four 128-bit ports; BitNet b1.58 of 0.73B to 2B parameters.
"""

from dataclasses import asdict, replace
from pathlib import Path

from .checks import json_object
from .config import AcceleratorConfig
from .names import unknown_name
from .rules import ONE_CHUNK

__all__ = ["PRESETS", "preset", "with_cache"]


def with_cache(config: AcceleratorConfig, cache: str) -> AcceleratorConfig:
    """``config`` with another controller of the KV cache, and its name with that of the controller; with one chunk of tokens in flight
    where the controller takes no more."""
    return replace(config, cache=cache, name=f"{config.name}_{cache}", chunks=1 if cache in ONE_CHUNK else config.chunks)


_TINY = AcceleratorConfig(
    name="tiny", bus_bits=32, vector_lanes=2, token_lanes=2, tables=8, table_rows=1,
    query_lanes=4, max_vector=528, max_block_rows=256, vector_memory=4096, max_head_dim=64,
    max_context=128, max_vocab=1024, prefetch_beats=128, top_k=8,
)
_PAGED = with_cache(replace(_TINY, token_lanes=4, bus_bits=64, vector_lanes=4, tables=16, data_beats=256), "paged")

PRESETS = {
    config.name: config
    for config in (
        _TINY,
        with_cache(_TINY, "window"),
        _PAGED,
        replace(_PAGED, name="tiny_swap", swap_slots=16),
        replace(_TINY, name="tiny_int4", kv_storage="int4"),
        with_cache(replace(_TINY, max_context=256), "evict"),
        replace(with_cache(_TINY, "window"), name="tiny_modes", attention_modes=True, probability_bits=26, max_context=512),
        replace(_TINY, name="tiny_recompute", selective_recompute=True),
        replace(_TINY, name="tiny_retrieval", block_retrieval=True, block_size=8, max_context=256),
        replace(_TINY, name="tiny_short", row_cycles=2, bus_bits=128, vector_lanes=4, tables=26, data_beats=256, max_context=512),
        AcceleratorConfig(
            name="edge", bus_bits=64, vector_lanes=2, token_lanes=4, tables=16, table_rows=1,
            query_lanes=4, max_vector=1056, max_block_rows=1024, vector_memory=4096, max_head_dim=64,
            max_context=512, max_vocab=4096, prefetch_beats=512, top_k=16,
        ),
        AcceleratorConfig(
            name="ulx3s", bus_bits=32, vector_lanes=2, token_lanes=4, tables=8, table_rows=1,
            query_lanes=4, max_vector=1056, max_block_rows=1024, vector_memory=4096, max_head_dim=64,
            max_context=512, max_vocab=4096, prefetch_beats=512, top_k=16,
        ),
        AcceleratorConfig(
            name="kv260", bus_bits=512, memory_ports=4, vector_lanes=8, token_lanes=13, chunks=2, tables=26, table_rows=4,
            query_lanes=4, max_vector=6912, max_block_rows=2048, vector_memory=16384, max_head_dim=128, max_heads=32,
            max_context=2048, max_vocab=131072, prefetch_beats=2048, data_beats=512, buffer_tokens=2, multiplier_bits=27,
            probability_bits=22, top_k=16,
        ),
    )
}


def preset(name: str) -> AcceleratorConfig:
    """The configuration called ``name``, or the one in a file ``NAME.json``: an object of parameters of ``AcceleratorConfig``, of which
    those that are left out are the ones of its ``"preset"``, and ``"name"`` that of the file.

    Raises ``ValueError`` with the known names, and a near one, for another name, and with the file's name for what breaks a rule there.
    """
    if name.endswith(".json"):
        return _read(Path(name))
    try:
        return PRESETS[name]
    except KeyError:
        raise unknown_name("preset", name, PRESETS) from None


def _read(path: Path) -> AcceleratorConfig:
    try:
        given = json_object(path)
        base = given.pop("preset", None)
        if not isinstance(base, str | None) or str(base).endswith(".json"):
            raise TypeError(f"preset must be the name of one, not {base!r}")
        config = AcceleratorConfig.from_json({**({} if base is None else asdict(preset(base))), "name": path.stem, **given})
        if config.name in PRESETS:
            raise ValueError(f"name must not be that of a preset, not {config.name!r}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a configuration: {error}") from error
    return config
