"""Benches of the sequential arithmetic units."""

import random
from collections.abc import Mapping
from math import isqrt
from typing import Any

from ..golden.numerics import MANTISSA_BITS, Scalar
from .trace import Trace
from .unit import Items, UnitBench

__all__ = ["DividerBench", "NormalizerBench", "ScalarUnitBench", "SquareRootBench", "random_scalar",
           "scalar_fields", "scalar_of"]

TOP = 1 << (MANTISSA_BITS - 1)
SMALLEST, LARGEST = TOP, 2 * TOP - 1


def scalar_fields(scalar: Scalar) -> dict[str, int]:
    """Payload of a ``SCALAR`` field."""
    return {"mantissa": scalar.mantissa, "exponent": scalar.exponent}


def scalar_of(fields: Mapping[str, int]) -> Scalar:
    """The ``Scalar`` in a payload."""
    return Scalar(fields["mantissa"], fields["exponent"])


def random_scalar(rng: random.Random, low: int, high: int) -> Scalar:
    """A random pseudo-float with its exponent in ``low..high``; its mantissa is sometimes extreme."""
    mantissa = rng.choice((SMALLEST, LARGEST, rng.randint(SMALLEST, LARGEST), rng.randint(SMALLEST, LARGEST)))
    return Scalar(mantissa, rng.randint(low, high))


class DividerBench(UnitBench):
    """Quotients against Python's."""

    numerator_bits, denominator_bits, quotient_bits = 2 * MANTISSA_BITS, MANTISSA_BITS, MANTISSA_BITS + 1

    def stimulus(self, rng: random.Random, case: str) -> Items:
        items = []
        for _ in range(24):
            denominator = rng.getrandbits(self.denominator_bits) >> rng.randrange(self.denominator_bits) | 1
            bound = min(denominator << self.quotient_bits, 1 << self.numerator_bits)
            items.append({"numerator": rng.randrange(bound), "denominator": denominator})
        return {"i": items}

    def boundary(self) -> Items:
        numerators = (0, 1, 1 << (self.numerator_bits - 1), (1 << self.numerator_bits) - 1)
        denominators = (1, SMALLEST, LARGEST)
        return {"i": [{"numerator": min(n, (d << self.quotient_bits) - 1), "denominator": d}
                      for n in numerators for d in denominators]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"quotient": item["numerator"] // item["denominator"]} for item in stimulus["i"]]}


class SquareRootBench(UnitBench):
    """Roots against Python's."""

    bits = MANTISSA_BITS

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"radicand": rng.getrandbits(2 * self.bits) >> rng.randrange(2 * self.bits)}
                      for _ in range(24)]}

    def boundary(self) -> Items:
        top = (1 << self.bits) - 1
        return {"i": [{"radicand": value} for value in (0, 1, 2, 3, 4, top * top - 1, top * top,
                                                        (1 << 2 * self.bits) - 1)]}

    def expected(self, stimulus: Items) -> Items:
        return {"o": [{"root": isqrt(item["radicand"])} for item in stimulus["i"]]}


class NormalizerBench(UnitBench):
    """Left-justified numbers and their bit lengths."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.width = 33 + config.max_vector.bit_length()

    def stimulus(self, rng: random.Random, case: str) -> Items:
        return {"i": [{"value": rng.getrandbits(self.width) >> rng.randrange(self.width + 1)}
                      for _ in range(50)]}

    def boundary(self) -> Items:
        return {"i": [{"value": 0}, *({"value": 1 << k} for k in range(self.width)),
                      {"value": (1 << self.width) - 1}]}

    def expected(self, stimulus: Items) -> Items:
        out = []
        for item in stimulus["i"]:
            length = item["value"].bit_length()
            out.append({"value": item["value"] << (self.width - length) if length else 0, "length": length})
        return {"o": out}


class ScalarUnitBench(UnitBench):
    """All operations against the golden pseudo-floats."""

    names = ("multiply", "add", "reciprocal", "rsqrt")
    zero = Scalar(0, 0)

    def _item(self, op: int, a: Scalar, b: Scalar) -> dict[str, Any]:
        return {"op": op, "a": scalar_fields(a), "b": scalar_fields(b)}

    def stimulus(self, rng: random.Random, case: str) -> Items:
        items = []
        for _ in range(24):
            a, b = random_scalar(rng, -40, 40), random_scalar(rng, -40, 40)
            if rng.random() < 0.1:
                a = self.zero
            if rng.random() < 0.3:
                b = rng.choice((self.zero, Scalar(b.mantissa, a.exponent)))
            items.append(self._item(rng.randrange(4), a, b))
        return {"i": items}

    def boundary(self) -> Items:
        """Zeros, extreme mantissas, exponents far apart and at the ends of their range."""
        items = [self._item(op, a, b) for op in range(4)
                 for a in (self.zero, Scalar(SMALLEST, 0), Scalar(LARGEST, -1), Scalar(SMALLEST, 1))
                 for b in (self.zero, Scalar(SMALLEST, 0), Scalar(LARGEST, 23), Scalar(LARGEST, 24),
                           Scalar(LARGEST, 25))]
        far, near = Scalar(LARGEST, 32766), Scalar(LARGEST, -32768)
        items += [self._item(1, far, near), self._item(1, near, far), self._item(0, far, near),
                  self._item(2, Scalar(SMALLEST, -32768 + 48), near), self._item(3, near, far),
                  self._item(3, far, near)]
        return {"i": items}

    def expected(self, stimulus: Items) -> Items:
        out = []
        for item in stimulus["i"]:
            a, b = scalar_of(item["a"]), scalar_of(item["b"])
            result = (lambda a=a, b=b: a * b, lambda a=a, b=b: a + b, a.reciprocal, a.rsqrt)[item["op"]]()
            out.append(scalar_fields(result))
        return {"o": out}

    def latency_stimulus(self) -> Items:
        """One of each, and one more to see the last interval."""
        a, b = Scalar(SMALLEST + 5, 3), Scalar(LARGEST, -2)
        return {"i": [self._item(op, a, b) for op in (0, 1, 2, 3, 0)]}

    def measure(self, trace: Trace) -> dict[str, int]:
        """Of each operation: cycles to its result, and to the next operation."""
        accepted, delivered = trace.accepted["i"], trace.delivered["o"]
        return {f"{name} {what}": cycles for k, name in enumerate(self.names)
                for what, cycles in (("latency", delivered[k] - accepted[k]),
                                     ("interval", accepted[k + 1] - accepted[k]))}

    def figures(self, attributes: Mapping[str, Any]) -> Mapping[str, int]:
        return {f"{name} {what}": attributes[what][name]
                for name in self.names for what in ("latency", "interval")}
