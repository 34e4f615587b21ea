"""The register map: what it promises to drivers, and what it refuses."""

import dataclasses

import pytest
from llmrtl.accelerators.control.errors import CAUSE_BITS, ERROR_TEXT, ErrorCause
from llmrtl.accelerators.control.regmap import (
    COUNTER_BASE,
    UNIT_NAMES,
    Field,
    Register,
    RegisterMap,
    config_hash,
    register_map,
)
from llmrtl.accelerators.core import Core
from llmrtl.accelerators.presets import PRESETS, preset

TINY = preset("tiny")


def bases(config):
    """Offset of the base register of each memory port."""
    return {name: offset for name, offset in register_map(config).offsets.items() if name.startswith("MEMORY_BASE")}


def test_offsets_do_not_depend_on_the_configuration():
    window = {"KV_SINKS": 0x180, "KV_WINDOW": 0x184, "KV_POSITIONS": 0x188}.items()
    assert all((window <= register_map(config).offsets.items()) == (config.cache in ("window", "evict")) for config in PRESETS.values())
    budget = {"KV_THRESHOLD": 0x18C}.items()
    assert all((budget <= register_map(config).offsets.items()) == (config.cache == "evict") for config in PRESETS.values())
    paged = {"KV_FREE_BLOCKS": 0x190, "KV_ADDRESS": 0x194, "KV_HEADS": 0x198}.items()
    assert all((paged <= register_map(config).offsets.items()) == (config.cache == "paged") for config in PRESETS.values())
    kind = {"CONFIG_CACHE": 0x17C}.items()
    assert all((kind <= register_map(config).offsets.items()) == (config.cache != "contiguous") for config in PRESETS.values())
    modes = {"ATTENTION_MISSED": 0x1A0, "ATTENTION_PASSED": 0x1A4}.items()
    assert all((modes <= register_map(config).offsets.items()) == config.attention_modes for config in PRESETS.values())
    swap = {name: 0x1B0 + 4 * k for k, name in enumerate(("KV_SWAP_ADDRESS", "KV_SWAP_STRIDE", "KV_ROWS_OUT", "KV_ROWS_IN",
                                                            "KV_CLEAN_BLOCKS"))}.items()
    assert all((swap <= register_map(config).offsets.items()) == bool(config.swap_slots) for config in PRESETS.values())
    lists = {"DEVIATION_SATURATED": 0x1C8}.items()
    assert all((lists <= register_map(config).offsets.items()) == config.selective_recompute for config in PRESETS.values())
    means = {"MEANS_SATURATED": 0x1CC}.items()
    assert all((means <= register_map(config).offsets.items()) == config.block_retrieval for config in PRESETS.values())
    maps = [register_map(config).offsets.items() - bases(config).items() - window - budget - paged - kind - modes - swap - lists - means
            for config in PRESETS.values()]
    assert all(offsets == maps[0] for offsets in maps)


@pytest.mark.parametrize("ports", [2, 4, 8])
def test_every_memory_port_has_a_base(ports):
    config = dataclasses.replace(preset("kv260"), memory_ports=ports)
    registers = register_map(config, [f"unit_{i}" for i in range(12)])  # no room is lost for the most units
    assert bases(config) == {f"MEMORY_BASE_{port}": 0x100 + 4 * port for port in range(ports)}
    assert registers["CONFIG_MEMORY"].reset == ports
    for port in range(ports):
        (field,) = registers[f"MEMORY_BASE_{port}"].fields
        assert (field.access, field.mask, field.reset) == ("rw", 0xFFFF_F000, 0)


def test_one_memory_port_has_no_base():
    assert bases(TINY) == {}
    assert register_map(TINY)["CONFIG_MEMORY"].reset == 1


def test_counter_places_follow_from_their_numbers():
    for register in register_map(TINY):
        if register.counter is not None:
            assert register.offset == COUNTER_BASE + 8 * register.counter + 4 * register.half


def test_configuration_can_be_read_back():
    registers = register_map(TINY)
    fields = {field.name: field.reset for register in registers for field in register.fields}
    for name, value in TINY.to_json().items():
        if name in fields and name != "top_k":
            assert fields[name] == value, name
    assert fields["config_top_k"] == TINY.top_k
    assert fields["config_hash"] == config_hash(TINY)
    assert config_hash(TINY) != config_hash(preset("edge"))


def test_units_are_those_of_the_core():
    assert Core.UNITS == UNIT_NAMES


def test_every_cause_has_a_sentence_and_fits():
    assert ERROR_TEXT.keys() == set(ErrorCause)
    assert max(ErrorCause) < 1 << CAUSE_BITS
    assert all(text.endswith(".") for text in ERROR_TEXT.values())


@pytest.mark.parametrize(("options", "message"), [
    ({"access": "rx"}, "busy: access must be one of const, ro, rw, wo, w1c, pulse, not 'rx'"),
    ({"low": 31, "width": 2}, "busy: low and width must keep it in bits 0..31, not 31 and 2"),
    ({"width": 4, "reset": 16}, "busy: reset must be in 0..15, not 16"),
])
def test_field_refuses(options, message):
    with pytest.raises(ValueError) as error:
        Field(**{"name": "busy", "access": "ro", "doc": "", **options})
    assert str(error.value) == message


def test_refuses_too_many_units():
    with pytest.raises(ValueError, match="units must be at most 12, not 13"):
        register_map(TINY, [f"unit_{i}" for i in range(13)])
    assert register_map(TINY, [f"unit_{i}" for i in range(12)])["UNIT_11_STALLED_HI"].offset < 0x400


def one(name, offset, *fields):
    return Register(name, offset, "", fields or (Field(name.lower(), "ro", ""),))


@pytest.mark.parametrize(("registers", "message"), [
    ([one("A", 2)], "A: offset must be a word of the window, not 0x2"),
    ([one("A", 0x1000)], "A: offset must be a word of the window, not 0x1000"),
    ([one("A", 4), one("B", 4)], "B: offset 0x4 is taken"),
    ([one("A", 0), one("A", 4)], "A occurs twice"),
    ([one("A", 0, Field("x", "ro", "")), one("B", 4, Field("x", "ro", ""))], "x occurs twice"),
    ([one("A", 0, Field("x", "ro", "", 0, 4), Field("y", "ro", "", 3, 4))], "A: bits of y are taken"),
])
def test_map_refuses(registers, message):
    with pytest.raises(ValueError) as error:
        RegisterMap(tuple(registers))
    assert str(error.value) == message
