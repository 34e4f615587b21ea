"""Payloads to bits and back."""

import numpy as np
import pytest
from llmrtl.sim.bench.layout import Codec
from llmrtl.sim.bench.trace import Trace

S5 = {"kind": "int", "width": 5, "signed": True}
U3 = {"kind": "int", "width": 3, "signed": False}
SHAPE = {"kind": "struct", "width": 13, "fields": [
    {"name": "tag", "offset": 0, "shape": U3},
    {"name": "values", "offset": 3, "shape": {"kind": "array", "width": 10, "length": 2, "element": S5}}]}


@pytest.mark.parametrize("values", [[-16, 15], [0, -1], (3, 4), np.array([-2, 9], dtype=np.int8)])
def test_round_trip(values):
    codec = Codec(SHAPE, "o")
    bits, mask = codec.pack({"tag": 6, "values": values})
    assert mask == 0x1FFF
    assert codec.unpack(bits) == {"tag": 6, "values": list(values)}


def test_bit_positions():
    assert Codec(SHAPE, "o").pack({"tag": 5, "values": [-1, 1]})[0] == 5 | 31 << 3 | 1 << 8


def test_none_matches_anything():
    codec = Codec(SHAPE, "o")
    assert codec.pack({"tag": None, "values": [0, None]}) == (0, 31 << 3)
    assert codec.pack({"tag": 1, "values": None}) == (1, 7)
    assert codec.pack(None) == (0, 0)


@pytest.mark.parametrize(("value", "message"), [
    ({"tag": 8, "values": [0, 0]}, r"o\.tag must be in 0\.\.7, not 8"),
    ({"tag": 0, "values": [0, 16]}, r"o\.values\[1\] must be in -16\.\.15, not 16"),
    ({"tag": 0, "values": [0, 1.5]}, r"o\.values\[1\] must be an integer, not 1\.5"),
    ({"tag": 0, "values": [0]}, r"o\.values must be a list of 2 elements, not \[0\]"),
    ({"tag": 0}, "o must be a dict with keys tag, values, not"),
    (3, "o must be a dict with keys tag, values, not 3"),
])
def test_refused(value, message):
    with pytest.raises(ValueError, match=message):
        Codec(SHAPE, "o").pack(value)


def test_figures():
    trace = Trace({"i": [4, 5, 9], "i_side": [3]}, {"o": [12, 13]}, {"o": 10})
    assert trace.figures() == {"latency": 7, "interval": 4}
    assert trace.latency("i", "o", 2) == 1
    assert trace.interval("o") == 1
    assert Trace().figures() == {}
