"""Common cocotb bench: one menu of tests for every unit, driven by the sidecar and a golden model."""

from .unit import UnitBench

__all__ = ["UnitBench"]
