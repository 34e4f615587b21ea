"""The Logic-PIM expert unit of a pseudo channel."""

from amaranth.hdl import Module
from amaranth.lib import wiring

from ..streams import connect
from .config import ExpertConfig
from .core import ExpertCore
from .streamer import WeightStreamer

__all__ = ["ExpertUnit"]

INNER = ("o_run", "i_words")


class ExpertUnit(wiring.Component):
    """``ExpertCore`` on the bank bundles of its pseudo channel (Duplex, arXiv:2409.01141, section 5)::

        i, i_tokens, i_x -> ExpertCore -> o, o_read
                             |      ^
                             v      |
        i_normal ------> WeightStreamer ---> command, data: memory
        o_normal <-----------'

    Parameters
    ----------
    config : ExpertConfig
        ``max_intermediate`` is of the unit's share of the experts.

    Members
    -------
    i, i_tokens, i_x, o, i_read, o_read, counters
        See ``ExpertCore``.
    command, data, i_normal, o_normal, normal_data
        See ``WeightStreamer``.
    memory_counters : Out(COUNTERS of BundleController)

    Latency and interval: see ``ExpertCore``; memory gives a word per cycle less what rows and refresh take.
    """

    interval = 1

    def __init__(self, config: ExpertConfig):
        self.config = config
        self._core, self._streamer = ExpertCore(config), WeightStreamer(config)
        self.latency = self._core.latency
        core = {name: member for name, member in self._core.signature.members.items() if name not in INNER}
        memory = {name: member for name, member in self._streamer.signature.members.items() if name not in ("i", "o")}
        memory["memory_counters"] = memory.pop("counters")
        super().__init__({**core, **memory})

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertUnit":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self._core
        m.submodules.streamer = streamer = self._streamer
        connect(m, core.o_run, streamer.i)
        connect(m, streamer.o, core.i_words)
        for name in ("i", "i_tokens", "i_x", "i_read"):
            connect(m, wiring.flipped(getattr(self, name)), getattr(core, name))
        for name in ("o", "o_read"):
            connect(m, getattr(core, name), wiring.flipped(getattr(self, name)))
        connect(m, wiring.flipped(self.i_normal), streamer.i_normal)
        connect(m, streamer.o_normal, wiring.flipped(self.o_normal))
        m.d.comb += [self.counters.eq(core.counters), self.memory_counters.eq(streamer.counters), self.command.eq(streamer.command),
                     streamer.data.eq(self.data), streamer.normal_data.eq(self.normal_data)]
        return m
