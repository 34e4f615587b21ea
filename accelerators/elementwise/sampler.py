"""Sampler: from a stream of logits to one token, greedy or top-k with temperature."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..exp import Pow2Negative
from ..numerics import SCALAR
from .head import LOGIT_BITS, logit_layout

__all__ = ["Sampler"]

FACTOR_BITS = 18
SCALE_SHIFT = 24 - FACTOR_BITS
RANDOM_BITS = 32
WARM_UP = 8
ZERO_SEED = 0xFFFF_FFFF


def xorshift32(state):
    """Next state of Marsaglia's generator (13, 17, 5), as combinational logic."""
    a = state ^ (state << 13)[:RANDOM_BITS]
    b = a ^ (a >> 17)
    return b ^ (b << 5)[:RANDOM_BITS]


class Sampler(wiring.Component):
    """Takes the logits of one token as they come and gives the token.

    The best ``k`` logits are kept in a small memory, in order. A logit that is not above the worst of them is
    dropped at once; another is inserted by moving the ones below it, one per cycle. After the last logit a
    greedy choice is the first of the list. Otherwise, one candidate after another::

        u_i = (value_0 - value_i) * scale      in F = logit_frac_bits, floor, clamped to 2**(F + 5) - 1
        p_i = 2**-u_i                          in probability_bits
        first i with p_0 + ... + p_i > (r * (p_0 + ... + p_(k-1))) >> 32

    by shift-and-add on one adder; the only multiplier is that of ``Pow2Negative``. ``r`` is the next state of
    xorshift32, which advances once per sampled token (not for a greedy one).

    Parameters
    ----------
    config : AcceleratorConfig
        ``max_vocab``, ``top_k``, ``logit_frac_bits``, ``probability_bits`` and ``exp_segments`` matter here.

    Members
    -------
    i_command : In(stream): ``{greedy: 1, k: 8, scale: SCALAR}``
        One per logit vector. ``k``: 1 to ``top_k``; 0 means 1 and more means ``top_k``. ``scale``: real value
        of one logit unit times log2(e) / temperature; only the upper 18 bits of its mantissa count. If its
        exponent is above ``-(6 + F)``, every ``u_i`` but 0 is clamped.
    i : In(stream): ``{index, value: signed(48), last}``
        Logits in rising order of ``index`` (of equal ones the first wins).
    o : Out(stream): ``{token, value: signed(48)}``
        The token and the largest logit.
    seed : In(32), reseed : In(1)
        With ``reseed`` the generator restarts from ``seed`` (0 stands for ``2**32 - 1``), and makes
        ``WARM_UP`` steps before its next use. After reset it starts from seed 1.

    Latency: from the last logit, ``latency`` cycles for a greedy choice, at most ``35 + 95 * k`` for a draw
    (some ``68 * k`` for usual scales), and up to ``1 + k`` more if that logit is inserted. Interval: 1 cycle
    per logit that is not among the best ``k`` so far, up to ``2 + k`` cycles for one that is.
    """

    latency = 2
    interval = 1

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({
                "greedy": 1, "k": 8, "scale": SCALAR}))),
            "i": In(stream.Signature(logit_layout(config.max_vocab))),
            "o": Out(stream.Signature(data.StructLayout({
                "token": range(config.max_vocab), "value": signed(LOGIT_BITS)}))),
            "seed": In(RANDOM_BITS),
            "reseed": In(1),
        })

    @classmethod
    def for_config(cls, config: AcceleratorConfig) -> "Sampler":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        entry = data.StructLayout({"value": signed(LOGIT_BITS), "index": range(config.max_vocab)})
        m.submodules.candidates = candidates = Memory(shape=entry, depth=config.top_k, init=[])
        write, read = candidates.write_port(), candidates.read_port(domain="comb")
        p_shape = unsigned(config.probability_bits + 1)
        m.submodules.probabilities = probabilities = Memory(shape=p_shape, depth=config.top_k, init=[])
        p_write, p_read = probabilities.write_port(), probabilities.read_port(domain="comb")
        u_bits = config.logit_frac_bits + 5
        m.submodules.power = power = Pow2Negative(config.logit_frac_bits, config.probability_bits,
                                                  config.exp_segments, u_bits)

        random, warm_up = Signal(RANDOM_BITS, init=1), Signal(range(WARM_UP + 1), init=WARM_UP)
        advance = Signal()
        with m.If(self.reseed):
            m.d.sync += [random.eq(Mux(self.seed == 0, ZERO_SEED, self.seed)), warm_up.eq(WARM_UP)]
        with m.Elif(warm_up != 0):
            m.d.sync += [random.eq(xorshift32(random)), warm_up.eq(warm_up - 1)]
        with m.Elif(advance):
            m.d.sync += random.eq(xorshift32(random))

        greedy = Signal()
        final_slot, slot = Signal(range(config.top_k)), Signal(range(config.top_k))  # list's end; first free
        full, found = Signal(), Signal()
        worst, best = Signal(signed(LOGIT_BITS)), Signal(signed(LOGIT_BITS))
        logit, above = Signal.like(self.i.p), Signal.like(read.data)
        position = Signal(range(config.top_k))  # where the new logit goes, unless the one above it is smaller
        slot_above, item = Signal(range(config.top_k)), Signal(range(config.top_k))
        token = Signal(range(config.max_vocab))

        # {high, low} is operand * multiplier after one step per bit of the multiplier, lowest first; every
        # further step shifts it right.
        operand, high = Signal(LOGIT_BITS), Signal(LOGIT_BITS)
        low, multiplier = Signal(FACTOR_BITS), Signal(RANDOM_BITS)
        product = Cat(low, high)
        most_steps = LOGIT_BITS + 2 * FACTOR_BITS  # leave nothing of any product
        factor, scale_steps = Signal(FACTOR_BITS), Signal(range(most_steps))
        shift, clamps, large = Signal(signed(18)), Signal(), Signal()
        steps, last_step = Signal.like(scale_steps), Signal()
        drawing = Signal()
        total = Signal(config.probability_bits + 1 + (config.top_k - 1).bit_length())
        m.d.comb += [
            shift.eq(-(self.i_command.p.scale.exponent + SCALE_SHIFT + config.logit_frac_bits)),
            read.addr.eq(item),
            p_read.addr.eq(item),
            p_write.addr.eq(item),
            write.addr.eq(position),
            large.eq(product[u_bits:].any() | (clamps & product.any())),
            p_write.data.eq(power.o.p.p),
            self.o.p.token.eq(token),
            self.o.p.value.eq(best),
        ]

        def multiply(a, b, more_steps) -> None:
            m.d.sync += [operand.eq(a), multiplier.eq(b), steps.eq(more_steps), last_step.eq(0), high.eq(0), low.eq(0)]
            m.next = "MULTIPLY"

        with m.FSM():
            with m.State("COMMAND"):
                command = self.i_command.p
                m.d.comb += self.i_command.ready.eq(1)
                m.d.sync += [
                    greedy.eq(command.greedy),
                    final_slot.eq(Mux(command.greedy | (command.k == 0), 0,
                                      Mux(command.k > config.top_k, config.top_k, command.k) - 1)),
                    factor.eq(command.scale.mantissa[-FACTOR_BITS:]),
                    clamps.eq(shift < 0),
                    scale_steps.eq(FACTOR_BITS - 1 + Mux(shift < 0, 0, shift)),
                    slot.eq(0),
                    full.eq(0),
                    total.eq(0),
                    drawing.eq(0),
                ]
                with m.If(shift > most_steps - FACTOR_BITS):
                    m.d.sync += scale_steps.eq(most_steps - 1)
                with m.If(self.i_command.valid):
                    m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [logit.eq(self.i.p), position.eq(slot), item.eq(slot_above)]
                with m.If(self.i.valid):
                    with m.If(~full | (self.i.p.value > worst)):
                        m.next = "LOOK"
                    with m.Elif(self.i.p.last):
                        m.next = "CHOOSE"
            with m.State("LOOK"):
                m.d.sync += [item.eq(item - 1), above.eq(read.data), found.eq(read.data.value >= logit.value)]
                with m.If(slot == final_slot):
                    m.d.sync += [slot_above.eq(slot - 1), full.eq(1)]
                with m.Else():
                    m.d.sync += [slot_above.eq(slot), slot.eq(slot + 1)]
                m.next = "INSERT"
            with m.State("INSERT"):
                m.d.comb += [write.en.eq(1), write.data.eq(above)]
                m.d.sync += [item.eq(item - 1), above.eq(read.data), found.eq(read.data.value >= logit.value)]
                m.d.sync += position.eq(position - 1)
                with m.If(found | (position == 0)):
                    m.d.comb += [write.data.value.eq(logit.value), write.data.index.eq(logit.index)]
                    m.next = "SCAN"
                    with m.If(logit.last):
                        m.next = "CHOOSE"
                with m.If(position == 0):
                    m.d.sync += [best.eq(logit.value), token.eq(logit.index)]
                with m.If(position == final_slot):
                    m.d.sync += worst.eq(write.data.value)
            with m.State("CHOOSE"):
                m.d.sync += item.eq(0)
                m.next = "DISTANCE"
                with m.If(greedy):
                    m.next = "TOKEN"
            with m.State("DISTANCE"):
                multiply(best - read.data.value, factor, scale_steps)
            with m.State("MULTIPLY"):
                addend = operand & multiplier[0].replicate(LOGIT_BITS)
                m.d.sync += [
                    product.eq(Cat(low[1:], high + addend)),
                    multiplier.eq(multiplier >> 1),
                    steps.eq(steps - 1), last_step.eq(steps == 1),
                ]
                with m.If(last_step):
                    m.next = "CLAMP"
                    with m.If(drawing):
                        m.next = "PICK"
            with m.State("CLAMP"):
                m.d.sync += power.i.p.u.eq(Mux(large, (1 << u_bits) - 1, product))
                m.next = "POWER"
            with m.State("POWER"):
                m.d.comb += power.i.valid.eq(1)
                with m.If(power.i.ready):
                    m.next = "PROBABILITY"
            with m.State("PROBABILITY"):
                m.d.comb += [power.o.ready.eq(1), p_write.en.eq(power.o.valid)]
                with m.If(power.o.valid):
                    m.d.sync += [total.eq(total + power.o.p.p), item.eq(item + 1)]
                    m.next = "DISTANCE"
                    with m.If(item == Mux(full, final_slot, slot - 1)):
                        m.d.sync += item.eq(0)
                        m.next = "DRAW"
            with m.State("DRAW"):
                m.d.comb += advance.eq(1)
                with m.If((warm_up == 0) & ~self.reseed):
                    m.d.sync += drawing.eq(1)
                    multiply(total, xorshift32(random), RANDOM_BITS - 1)
            with m.State("PICK"):
                # high is what is left of the threshold
                m.d.sync += [high.eq(high - p_read.data), token.eq(read.data.index), item.eq(item + 1)]
                with m.If(p_read.data > high):
                    m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "COMMAND"
        return m
