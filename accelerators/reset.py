"""Resets of the parts of a large design, from registers of their own."""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Module, Signal

__all__ = ["ResetChain"]


class ResetChain:
    """Gives each part a reset from a register of its own, so that none has to reach across the device.

    All resets begin one cycle after that of the domain ``sync``. They end one after another, ``len(chain)`` cycles after it the
    last (registers that did the same would be made one by synthesis): until then nothing may be given to any part.

    Parameters
    ----------
    m : Module
        Which has the parts as submodules.
    """

    def __init__(self, m: Module):
        self._m = m
        self._stages: list[Signal] = []

    def __len__(self) -> int:
        return len(self._stages)

    def add(self, **parts: Elaboratable) -> None:
        """Add submodules whose ``sync`` is the module's but for the reset, which is the chain's next."""
        m, name = self._m, next(iter(parts))
        stage, domain = Signal(init=1, name=f"{name}_reset"), ClockDomain(name, local=True)
        m.d.sync += stage.eq(self._stages[-1] if self._stages else 0)
        self._stages.append(stage)
        m.domains += domain
        m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(stage)]
        for part, component in parts.items():
            m.submodules[part] = DomainRenamer(name)(component)
