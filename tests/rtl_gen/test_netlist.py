"""Names of cells in a netlist."""

from collections import Counter

from llmrtl.rtl_gen.netlist import name_cells, resources_by_instance


def lut(inputs, output):
    return {"type": "LUT4", "port_directions": {"A": "input", "Z": "output"}, "connections": {"A": inputs, "Z": [output]}}


def ff(data, q):
    return {"type": "FF", "port_directions": {"DI": "input", "Q": "output"}, "connections": {"DI": [data], "Q": [q]}}


SCOPE = {"type": "$scopeinfo", "port_directions": {}, "connections": {}}


def module(cells, nets):
    return {"cells": cells, "netnames": {name: {"hide_name": int(name.startswith("$")), "bits": bits}
                                         for name, bits in nets.items()}}


def test_cells_are_called_after_the_net_that_they_drive():
    netlist = module({"core": SCOPE, "$1": ff(2, 3), "$2": ff(3, 4), "core.rows.0.0": lut([2], 9)},
                     {"core.total": [3, 4], "$x": [3], "core.$8": [4], "core._0_": [3]})
    name_cells(netlist)
    assert list(netlist["cells"]) == ["core", "core.total_FF_0", "core.total_FF_1", "core.rows.0.0"]


def test_a_nameless_cell_is_called_after_the_nearest_cell_behind_it():
    netlist = module({"$1": lut([2], 3), "$2": lut([3, "1", "x"], 4), "$3": ff(4, 5), "$4": lut([2], 6)}, {"sum": [5], "$y": [6]})
    name_cells(netlist)
    assert list(netlist["cells"]) == ["sum_LUT4_0", "sum_LUT4_1", "sum_FF_0", "$4"]


def test_the_name_of_the_driver_is_preferred():
    """Of one net's names: no input of another unit, then the deepest."""
    netlist = module({"a": SCOPE, "a.b": SCOPE, "c": SCOPE, "$1": ff(2, 3), "$2": ff(2, 4)},
                     {"c.i__valid": [3], "a.o__valid": [3], "a.b.o__valid": [3], "a.o__ready": [4], "c.i__ready": [4]})
    name_cells(netlist)
    assert list(netlist["cells"])[3:] == ["a.b.o__valid_FF_0", "c.i__ready_FF_0"]


def test_counts_include_submodules():
    netlist = module({"a": SCOPE, "a.b": SCOPE, "$1": ff(2, 3), "$2": lut([3], 4), "$3": ff(2, 5)},
                     {"a.b.x": [3], "a.y.field": [4], "z.x": [5]})
    name_cells(netlist)
    assert resources_by_instance(netlist) == {"a": Counter(FF=1, LUT4=1), "a.b": Counter(FF=1)}
