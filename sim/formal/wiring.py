"""Small components around the functions of ``streams/route.py``, and what forks, routes and arbiters promise beyond stable payloads."""

from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...accelerators.memory.arbiter import ReadArbiter, WriteArbiter
from ...accelerators.memory.stripe import PortStripe
from ...accelerators.streams import Fork
from ...accelerators.streams.route import merge, pass_fields, scatter, steer
from .contract import StreamContract

__all__ = ["ArbiterContract", "ForkContract", "Merged", "MergedContract", "Passed", "Scattered", "ScatteredContract", "Steered",
           "StripeContract", "WriteArbiterContract"]

_ITEM = data.StructLayout({"to": 1, "value": 2})


class Steered(wiring.Component):
    """``steer`` by a field of the payload."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(_ITEM)), "o": Out(stream.Signature(_ITEM)).array(2)})

    def elaborate(self, platform):
        m = Module()
        steer(m, self.i, [(self.o[k], self.i.p.to == k) for k in range(2)])
        return m


class Passed(wiring.Component):
    """``pass_fields`` with a constant."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(_ITEM)),
                          "o": Out(stream.Signature(data.StructLayout({"value": 2, "to": 1, "more": 1})))})

    def elaborate(self, platform):
        m = Module()
        pass_fields(m, self.i, self.o, more=1)
        return m


class Merged(wiring.Component):
    """``merge`` of two streams by a plain input."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(2)).array(2), "o": Out(stream.Signature(2)), "chosen": In(2)})

    def elaborate(self, platform):
        m = Module()
        merge(m, [(self.i[k], self.chosen == k) for k in range(2)], self.o)
        return m


class Scattered(wiring.Component):
    """``scatter`` by a plain input; ``ready`` of the source falls a cycle after the condition."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(2)), "o": Out(stream.Signature(2)).array(2), "chosen": In(2)})

    def elaborate(self, platform):
        m = Module()
        ends = scatter(m, self.i, "part", {str(k): self.chosen == k for k in range(2)})
        for k, end in enumerate(ends.values()):
            wiring.connect(m, end, wiring.flipped(self.o[k]))
        return m


def _taken(port, channel: str = "") -> Value:
    return getattr(port, channel + "valid") & getattr(port, channel + "ready")


class ForkContract(StreamContract):
    """Every output has taken as many items as the input, or one more while that one is offered; each is the input's."""

    def __init__(self, count: int):
        super().__init__(Fork(2, count))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        fork = self.component
        for number, port in enumerate(fork.o):
            ahead, waits = Signal(2, name=f"ahead_{number}"), Signal(name=f"waits_{number}")
            m.d.sync += [ahead.eq(ahead + _taken(port) - _taken(fork.i)), waits.eq(fork.i.valid & ~fork.i.ready)]
            m.d.comb += [Assert(ahead <= waits), Assert(~port.valid | (fork.i.valid & (port.payload == fork.i.payload))),
                         Assert(~_taken(fork.i) | (ahead == 1) | _taken(port))]
        return m


class MergedContract(StreamContract):
    """The choice stands while the chosen item waits; no other is taken."""

    def __init__(self):
        super().__init__(Merged())

    def elaborate(self, platform):
        m = super().elaborate(platform)
        merged, waited, before = self.component, Signal(), Signal(2)
        m.d.sync += [waited.eq(merged.o.valid & ~merged.o.ready), before.eq(merged.chosen)]
        m.d.comb += [Assume(~waited | (merged.chosen == before)),
                     *(Assert(~port.ready | (merged.chosen == k)) for k, port in enumerate(merged.i)),
                     Assert(Cat(_taken(port) for port in merged.i).any() == _taken(merged.o))]
        return m


class ScatteredContract(StreamContract):
    """Nothing is offered in the cycle after the condition changed; what is accepted goes to the one that was chosen, and no other."""

    def __init__(self):
        super().__init__(Scattered())

    def elaborate(self, platform):
        m = super().elaborate(platform)
        part, before = self.component, Signal(2)
        m.d.sync += before.eq(part.chosen)
        m.d.comb += Assume(~part.i.valid | ((part.chosen == before) & (part.chosen < 2)))
        for number, port in enumerate(part.o):
            inside = Signal(range(32), name=f"inside_{number}")
            enters = _taken(part.i) & (part.chosen == number)
            m.d.sync += inside.eq(inside + enters - _taken(port))
            m.d.comb += Assert(~port.valid | (inside != 0))
        return m


class _Grants(StreamContract):
    """No grant without request, one at a time; what goes out is what was granted, with the client's number; a client that asks waits
    for at most one grant of each other."""

    def _grants(self, m: Module, channel: str, *, fair: bool):
        """Of the address channel ``channel`` of an arbiter; gives who has a grant."""
        arbiter, axi = self.component, self.component.m_axi
        number_bits = (arbiter.clients - 1).bit_length()

        def of(port, name):
            return getattr(port, channel + name)

        grants, asks = (Cat(of(port, name) for port in arbiter.s_axi) for name in ("ready", "valid"))
        granted, address, length, number = Signal(), Signal(32), Signal(8), Signal(number_bits)
        m.d.sync += granted.eq(grants.any())
        for client, port in enumerate(arbiter.s_axi):
            m.d.comb += [Assert(~of(port, "ready") | of(port, "valid")), Assert(~of(port, "ready") | (grants == 1 << client))]
            with m.If(of(port, "ready")):
                m.d.sync += [address.eq(of(port, "addr")), length.eq(of(port, "len")), number.eq(client)]
            passed_over = Signal(range(arbiter.clients + 1), name=f"passed_over_{client}")
            m.d.sync += passed_over.eq(Mux(of(port, "valid") & ~of(port, "ready"), passed_over + grants.any(), 0))
            if fair:
                m.d.comb += Assert(passed_over < arbiter.clients)
        m.d.comb += Assert(~granted | (of(axi, "valid") & (of(axi, "addr") == address) & (of(axi, "len") == length)
                                       & (of(axi, "id")[-number_bits:] == number)))
        return grants, asks


class ArbiterContract(_Grants):
    """No grant without request, one at a time; what goes out is what was granted, with the client's number; a client that asks waits
    for at most one grant of each other; a beat goes to the client that its ID names, and to no other."""

    def __init__(self, clients: int, policy: str = "round_robin"):
        super().__init__(ReadArbiter(32, clients, policy=policy))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        arbiter, axi = self.component, self.component.m_axi
        grants, asks = self._grants(m, "ar", fair=arbiter.policy == "round_robin")
        m.d.comb += Assert(~asks.any() | grants.any() | (axi.arvalid & ~axi.arready))
        for client, port in enumerate(arbiter.s_axi):
            inside, enters = Signal(4, name=f"inside_{client}"), axi.rvalid & axi.rready & (axi.rid == client)
            m.d.sync += inside.eq(inside + enters - (port.rvalid & port.rready))
            m.d.comb += Assert(~port.rvalid | (inside != 0))
        return m


class WriteArbiterContract(_Grants):
    """As ArbiterContract; beats go out as they came, those of the client that was granted and of nobody else, burst after burst in the
    order of the grants; an answer goes to the client that its ID names, and to no other. With ``answered`` bursts have one beat, which
    is offered behind its grant, and while it is not, nothing is asked of the arbiter."""

    BURSTS = 16
    """A run has fewer."""

    def __init__(self, clients: int, **bounds):
        super().__init__(WriteArbiter(32, clients), **bounds)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        arbiter, axi = self.component, self.component.m_axi
        self._grants(m, "aw", fair=True)
        turns = Array([Signal(arbiter.client_bits, name=f"turn_{k}") for k in range(self.BURSTS)])
        granted, entered = Signal(range(self.BURSTS)), Signal(range(self.BURSTS))  # bursts, and those whose beats were taken
        kept, inside, first = Array([Signal(33, name=f"kept_{k}") for k in range(4)]), Signal(3), Signal(2)
        taken, gives = Cat(_taken(port, "w") for port in arbiter.s_axi), _taken(axi, "w")
        m.d.sync += [inside.eq(inside + taken.any() - gives), first.eq(first + gives)]
        m.d.comb += [Assume(granted != self.BURSTS - 1),
                     Assert(~axi.wvalid | ((inside != 0) & (Cat(axi.wdata, axi.wlast) == kept[first])))]
        for client, port in enumerate(arbiter.s_axi):
            with m.If(_taken(port, "aw")):
                m.d.sync += [turns[granted].eq(client), granted.eq(granted + 1)]
            with m.If(_taken(port, "w")):
                m.d.comb += [Assert(taken == 1 << client), Assert((entered != granted) & (turns[entered] == client))]
                m.d.sync += [kept[(first + inside)[:2]].eq(Cat(port.wdata, port.wlast)), entered.eq(entered + port.wlast)]
            answers, enters = Signal(4, name=f"answers_{client}"), _taken(axi, "b") & (axi.bid == client)
            m.d.sync += answers.eq(answers + enters - _taken(port, "b"))
            m.d.comb += Assert(~port.bvalid | (answers != 0))
            if self.answered is not None:
                owed = Signal(4, name=f"owed_{client}")
                m.d.sync += owed.eq(owed + _taken(port, "aw") - _taken(port, "w"))
                m.d.comb += Assume(~port.wvalid | (port.wlast & (owed != 0)))
        if self.answered is not None:
            offered = Cat(port.wvalid for port in arbiter.s_axi)
            m.d.comb += self.outside.eq((entered != granted) & ~offered.bit_select(turns[entered], 1))
        return m


class StripeContract(StreamContract):
    """Every port has been given the bursts of the bus, and at most the one more that is offered; no beat or response comes to the bus
    that not all ports have given. Memory gives no more than it was asked for. With ``answered`` it gives one beat for each burst, and
    while it owes one, nothing is asked of the ports."""

    def __init__(self, ports: int = 2, **bounds):
        super().__init__(PortStripe(32, ports, id_bits=1, outstanding=2, skew_beats=3), **bounds)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        stripe, bus = self.component, self.component.s_axi
        for prefix in ("ar", "aw"):
            valid, ready = getattr(bus, prefix + "valid"), getattr(bus, prefix + "ready")
            for number, port in enumerate(stripe.m_axi):
                asked, waits = Signal(4, name=f"{prefix}_asked_{number}"), Signal(name=f"{prefix}_waits_{number}")
                m.d.sync += [asked.eq(asked + (valid & ready) - (getattr(port, prefix + "valid") & getattr(port, prefix + "ready"))),
                             waits.eq(valid & ~ready)]
                # Of the bus, and not yet taken by the port: never less than none but for the one that is offered.
                m.d.comb += Assert((asked.as_signed() >= 0) | ((asked.as_signed() == -1) & waits))
        owes = []
        for number, port in enumerate(stripe.m_axi):
            beats, answers = Signal(4, name=f"beats_{number}"), Signal(4, name=f"answers_{number}")
            m.d.sync += [beats.eq(beats + (port.rvalid & port.rready) - (bus.rvalid & bus.rready)),
                         answers.eq(answers + (port.bvalid & port.bready) - (bus.bvalid & bus.bready))]
            m.d.comb += [Assert(~bus.rvalid | (beats != 0)), Assert(~bus.bvalid | (answers != 0))]
            reads, writes = Signal(4, name=f"reads_{number}"), Signal(4, name=f"writes_{number}")
            m.d.sync += [reads.eq(reads + (port.arvalid & port.arready) - (port.rvalid & port.rready & port.rlast)),
                         writes.eq(writes + (port.awvalid & port.awready) - (port.bvalid & port.bready))]
            m.d.comb += [Assume(~port.rvalid | (reads != 0)), Assume(~port.bvalid | (writes != 0))]
            owes.append(((reads != 0) & ~port.rvalid) | ((writes != 0) & ~port.bvalid))
            if self.answered is not None:
                m.d.comb += Assume(~port.rvalid | port.rlast)
        m.d.comb += self.outside.eq(Cat(owes).any())
        return m
