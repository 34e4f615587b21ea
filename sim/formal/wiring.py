"""Small components around the functions of ``streams/route.py``, and what forks, routes and arbiters promise beyond stable payloads."""

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...accelerators.memory.arbiter import ReadArbiter
from ...accelerators.memory.stripe import PortStripe
from ...accelerators.streams import Fork
from ...accelerators.streams.route import merge, pass_fields, scatter, steer
from .contract import StreamContract

__all__ = ["ArbiterContract", "ForkContract", "Merged", "MergedContract", "Passed", "Scattered", "ScatteredContract", "Steered",
           "StripeContract"]

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


def _taken(port) -> Value:
    return port.valid & port.ready


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


class ArbiterContract(StreamContract):
    """No grant without request, one at a time; what goes out is what was granted, with the client's number; a client that asks waits
    for at most one grant of each other; a beat goes to the client that its ID names, and to no other."""

    def __init__(self, clients: int, policy: str = "round_robin"):
        super().__init__(ReadArbiter(32, clients, policy=policy))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        arbiter, axi = self.component, self.component.m_axi
        ports = arbiter.s_axi
        grants = Cat(port.arready for port in ports)
        granted, address, length, number = Signal(), Signal(32), Signal(8), Signal(arbiter.id_bits)
        m.d.sync += granted.eq(grants.any())
        for client, port in enumerate(ports):
            m.d.comb += [Assert(~port.arready | port.arvalid), Assert(~port.arready | (grants == 1 << client))]
            with m.If(port.arready):
                m.d.sync += [address.eq(port.araddr), length.eq(port.arlen), number.eq(client)]
            passed_over = Signal(range(arbiter.clients + 1), name=f"passed_over_{client}")
            m.d.sync += passed_over.eq(Mux(port.arvalid & ~port.arready, passed_over + grants.any(), 0))
            if arbiter.policy == "round_robin":
                m.d.comb += Assert(passed_over < arbiter.clients)
        m.d.comb += [
            Assert(~granted | (axi.arvalid & (axi.araddr == address) & (axi.arlen == length) & (axi.arid == number))),
            Assert(~Cat(port.arvalid for port in ports).any() | grants.any() | (axi.arvalid & ~axi.arready)),
        ]
        inside = [Signal(4, name=f"inside_{client}") for client in range(arbiter.clients)]
        for client, port in enumerate(ports):
            enters = axi.rvalid & axi.rready & (axi.rid == client)
            m.d.sync += inside[client].eq(inside[client] + enters - (port.rvalid & port.rready))
            m.d.comb += Assert(~port.rvalid | (inside[client] != 0))
        return m


class StripeContract(StreamContract):
    """Every port has been given the bursts of the bus, and at most the one more that is offered; no beat or response comes to the bus
    that not all ports have given. Memory gives no more than it was asked for."""

    def __init__(self, ports: int = 2):
        super().__init__(PortStripe(32, ports, id_bits=1, outstanding=2, skew_beats=3))

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
        for number, port in enumerate(stripe.m_axi):
            beats, answers = Signal(4, name=f"beats_{number}"), Signal(4, name=f"answers_{number}")
            m.d.sync += [beats.eq(beats + (port.rvalid & port.rready) - (bus.rvalid & bus.rready)),
                         answers.eq(answers + (port.bvalid & port.bready) - (bus.bvalid & bus.bready))]
            m.d.comb += [Assert(~bus.rvalid | (beats != 0)), Assert(~bus.bvalid | (answers != 0))]
            reads, writes = Signal(4, name=f"reads_{number}"), Signal(4, name=f"writes_{number}")
            m.d.sync += [reads.eq(reads + (port.arvalid & port.arready) - (port.rvalid & port.rready & port.rlast)),
                         writes.eq(writes + (port.awvalid & port.awready) - (port.bvalid & port.bready))]
            m.d.comb += [Assume(~port.rvalid | (reads != 0)), Assume(~port.bvalid | (writes != 0))]
        return m
