"""What the front end does for an ATTEND that is a fallback: it is done only if a lane of the one before it left its unified maximum."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring

from .isa import Opcode

__all__ = ["Fallback"]

UNDER_WAY_BITS = 8


class Fallback:
    """The part of the front end that knows unified maxima (FlashDecoding++, arXiv:2311.01282, section 3: what came to a value outside
    its unified maximum is computed once more, in the synchronized way).

    Parameters
    ----------
    m : Module
    frontend : FrontEnd
        Its ports ``attended`` and ``passed``.
    op : View
        The instruction at hand.

    Members
    -------
    due : Value
        The instruction is an ATTEND that is a fallback.
    refused : Value
        In the state after the instruction was decoded: such an ATTEND, but what was queued before it is none. (One that is skipped for
        another reason is refused too: ask whether it is.)
    """

    def __init__(self, m: Module, frontend: wiring.Component, op: data.View):
        self._m, self._op = m, op
        self._behind, self._passed, self._under_way = Signal(name="behind_attend"), Signal(name="attend_passed"), Signal(UNDER_WAY_BITS)
        self._pushed = Signal(name="attend_pushed")
        self.due = (op.opcode == Opcode.ATTEND) & op.fallback
        self.refused = self.due & ~self._behind
        m.d.sync += self._under_way.eq(self._under_way + self._pushed - frontend.attended)
        with m.If(frontend.attended):
            m.d.sync += self._passed.eq(frontend.passed)

    def pushed(self) -> None:
        """In a state: the instruction goes to the executor."""
        attends = self._op.opcode == Opcode.ATTEND
        self._m.d.comb += self._pushed.eq(attends)
        self._m.d.sync += self._behind.eq(attends)

    def states(self) -> None:
        """FALLBACK: waits until all ATTENDs before have ended; to PUSH, or to the next instruction."""
        m = self._m
        with m.State("FALLBACK"):
            with m.If(self._under_way == 0):
                m.next = "DECODE"
                with m.If(self._passed):
                    m.next = "PUSH"
