"""Gated activation: squared ReLU or SiLU of the gate, times up."""

import math
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..memory.vector import vector_word
from ..numerics import SCALAR
from ..numerics.pipelined import left_justify, magnitude, unsigned_product
from ..pipeline import Pipeline
from ..streams import ROUND_TRIP, CreditQueue, connect

__all__ = ["Glu", "sigmoid_table"]

BITS = 17
"""Magnitude bits of gate and up, and fraction bits of the logistic function."""

ONE = 1 << BITS
SEGMENT_BITS, REST_BITS = 9, 11
DROPPED = 20
ACTIVATION_DEPTH = 12
DEPTH = ACTIVATION_DEPTH + 4


def sigmoid_table() -> list[int]:
    """``1 / (1 + exp(-k / 32))`` for k = 0..512 in 17 fraction bits."""
    return [round(ONE / (1 + math.exp(-k / 32))) for k in range((1 << SEGMENT_BITS) + 1)]


class Glu(wiring.Component):
    """``activation(gate) * up``, with gate and up normalized to 17 bits by their largest magnitudes.

    ``g`` and ``u`` are gate and up truncated to the 17 bits below the top bit of the largest magnitude::

        gate -> g -+-> * scale -> logistic function (512 chords over 0..16) -.
                   +---------------- g or 0 ----------------------> select --+-> * -> t
        up --> u -----------------------------------------------------------------> * -> round -> o

    ``t = max(g, 0)**2`` or ``g * sigmoid``; ``x = round(t * u / 2**20)``, halves up. One unit of x is
    ``2**(2 * gate_bits + up_bits - 31)`` (squared ReLU) or ``2**(gate_bits + up_bits - 31)`` (SiLU) units of
    the exact product.

    Parameters
    ----------
    config : AcceleratorConfig
        ``vector_lanes`` (V) and ``sum_bits`` matter.

    Members
    -------
    i_command : In(stream of {silu: 1, gate_bits: 6, up_bits: 6, scale: SCALAR})
        One per packet, there from its first word on, taken with its last one. Bit lengths of the largest
        magnitudes of the two vectors; real value of one unit of gate (silu only).
    i : In(stream of {x: V x signed(32), last})
        Words of ``gate`` and ``up`` in turn; ``last`` on an ``up``. Magnitudes are below
        ``2**(sum_bits - 1)`` (upper bits are ignored) and have at most ``gate_bits`` or ``up_bits`` bits.
    o : Out(stream of {x: V x signed(32), last})

    Latency: 18 cycles from ``up`` to its result. Interval: 1 cycle per word. The logistic function
    is within 2.4e-5 of the exact one.
    """

    latency = DEPTH + CreditQueue.latency
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        lanes = config.vector_lanes
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({
                "silu": 1, "gate_bits": 6, "up_bits": 6, "scale": SCALAR}))),
            "i": In(stream.Signature(vector_word(lanes))),
            "o": Out(stream.Signature(vector_word(lanes))),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Glu":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.results = results = CreditQueue(self.o.p.shape(), (DEPTH + ROUND_TRIP) // 2 + 1)
        connect(m, results.o, wiring.flipped(self.o))
        pipeline = Pipeline(m)
        register = pipeline.register

        is_up = Signal()
        accepted = self.i.valid & self.i.ready
        m.d.comb += [
            self.i.ready.eq(results.credit & self.i_command.valid),
            self.i_command.ready.eq(results.credit & self.i.valid & self.i.p.last),
            results.spend.eq(accepted & is_up),
        ]
        with m.If(accepted):
            m.d.sync += is_up.eq(~is_up & ~self.i.p.last)

        # The command goes along with the words: the next one may differ.
        command = register(self.i_command.p)
        bits = max(self.config.sum_bits - 1, BITS)
        amount = self.config.sum_bits - 1 - Mux(register(is_up), command.up_bits, command.gate_bits)
        z_shift = register(-(command.gate_bits + command.scale.exponent + 5))
        factor = register(command.scale.mantissa[-18:], 2)
        silu = register(command.silu, 2)

        arrives = register(accepted & ~is_up, ACTIVATION_DEPTH, reset=True)
        multiplies = register(accepted & is_up, ACTIVATION_DEPTH, reset=True)
        for k, x in enumerate(self.i.p.x):
            negative = register(x[self.config.sum_bits - 1])
            size = register(magnitude(x[:self.config.sum_bits])[:self.config.sum_bits - 1])
            padded = Cat(Const(0, bits - len(size)), size)
            size = left_justify(pipeline, padded, amount[:bits.bit_length()], BITS)  # 3 registers so far
            negative = register(negative, 2)

            sigma = self._sigmoid(m, pipeline, k, size, negative, factor, register(z_shift))  # 10
            size, negative = register(size, 7), register(negative, 7)
            is_silu = register(silu, 7)
            relu = Mux(negative, 0, size)
            activation = register(Mux(is_silu, sigma, relu))  # 11
            size, negative = register(size), register(negative)
            t, _ = unsigned_product(pipeline, size, activation)  # 12
            size, sign = register(size), register(negative)

            waiting = Signal(2 * BITS, name=f"t_{k}", reset_less=True)
            waiting_sign = Signal(name=f"t_sign_{k}", reset_less=True)
            with m.If(arrives):
                m.d.sync += [waiting.eq(t), waiting_sign.eq(sign)]
            product, _ = unsigned_product(pipeline, waiting, size)
            negative = register(waiting_sign ^ sign, 2)
            # Halves go up: for a negative product, the half is one less.
            rounded = register((product + ((1 << (DROPPED - 1)) - negative))[DROPPED:DROPPED + 31])
            m.d.comb += results.i.p.x[k].eq(register(Mux(register(negative), -rounded, rounded)))
        m.d.comb += [
            results.i.valid.eq(register(multiplies, 4, reset=True)),
            results.i.p.last.eq(register(self.i.p.last, DEPTH)),
        ]
        return m

    def _sigmoid(self, m, pipeline, lane, size, negative, factor, shift):
        """Logistic function of the gate, 7 registers later, in 17 fraction bits."""
        register = pipeline.register
        product, _ = unsigned_product(pipeline, size, factor)
        # z: 16 fraction bits, below 16.
        left, right = register(shift < 0), register(Mux(shift[6:].any(), 63, shift[:6]))
        large = register(register(left & (product != 0)))
        coarse = register(product >> Cat(Const(0, 3), right[3:]))
        fine = register(coarse >> register(right[:3]))
        z = Mux(large | fine[SEGMENT_BITS + REST_BITS:].any(), -1, fine)[:SEGMENT_BITS + REST_BITS]

        knots = sigmoid_table()
        entry = data.StructLayout({"base": BITS + 1, "slope": (knots[1] - knots[0]).bit_length()})
        m.submodules[f"table_{lane}"] = table = memory.Memory(
            shape=entry, depth=1 << SEGMENT_BITS,
            init=[{"base": a, "slope": b - a} for a, b in pairwise(knots)])
        read = table.read_port()
        m.d.comb += read.addr.eq(z[REST_BITS:])
        rest = register(z[:REST_BITS], 2)
        chord = register(read.data)  # block memory is slow to give its data
        rise = register(chord.slope * rest)
        negative = register(negative, 5)
        start = register(Mux(negative, ONE - chord.base, chord.base))
        negative = register(negative)
        step = rise[REST_BITS:]
        return register(Mux(negative, start - step, start + step)[:BITS + 1])
