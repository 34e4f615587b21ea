"""Weight streamer: reads a matrix row of memory after row of memory, and gives each row as often as there are tiles of tokens."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .bundle_controller import COUNTERS, normal_data, normal_request
from .config import ExpertConfig
from .dram_commands import command_pins

__all__ = ["WeightStreamer", "run_layout", "weight_layout"]


def run_layout(config: ExpertConfig) -> data.StructLayout:
    """``words`` words from the read command at ``column`` of ``row`` of ``bundle`` on, each stretch for ``tiles`` tiles."""
    return data.StructLayout({"bundle": range(config.bundles), "row": range(config.rows), "column": range(config.columns), "words": 24,
                              "tiles": range(config.tiles + 1)})


def weight_layout(config: ExpertConfig) -> data.StructLayout:
    """A word for a tile of tokens; ``end``: the last word of the stretch for this tile."""
    return data.StructLayout({"word": 8 * config.word_bytes, "tile": range(max(config.tiles, 2)), "end": 1})


class WeightStreamer(wiring.Component):
    """Streams weights from the bundles of a pseudo channel through a double buffer of two bundle rows (Duplex, arXiv:2409.01141,
    section 5: 8 KB rows).

    A run is cut into *stretches*: what lies of it in one bundle row. Of a stretch all words are given for tile 0, then all for tile 1,
    and so on; meanwhile the next one is read::

        i -> stretches -> BundleController -> memory
                |                               v
                '-------> half 0, half 1 of the buffer -> o

    A read command gives ``timing.ccd / 2`` words. A run begins at one and may end in the middle of one. Behind the last column of a row
    it goes on at column 0, with ``ping_pong`` of bundle ``b + 1`` in the same row if ``b`` is even, of bundle ``b - 1`` in the next
    row if it is odd; without, of the same bundle in the next row. Rows wrap around at ``rows``.

    Parameters
    ----------
    config : ExpertConfig
    normal : bool
        With the normal path, on which the xPU reads single banks of the same pseudo channel.

    Members
    -------
    i : In(stream of run_layout)
        Runs follow each other without a gap. One without words or tiles is dropped.
    o : Out(stream of weight_layout)
        A word per cycle; the first ones of a stretch before all of it is there.
    i_normal : In(stream of normal_request)
        Reads of single banks; see ``BundleController``.
    o_normal : Out(stream of normal_data, always_ready=True)
    command : Out(command_pins)
        The command slots of a logic cycle. Registers.
    data : In(word)
        The first word of an ``ALL_READ`` in the ``data_cycles(config)``-th cycle after that of the command, the others in the cycles
        behind it (in duplex: 11, and 2 words).
    normal_data : In(granule_bits)
        What a ``READ`` gives, as many cycles after it.
    counters : Out(COUNTERS)
        Since reset.
    """

    def __init__(self, config: ExpertConfig, *, normal: bool = True):
        self.config, self.normal = config, normal
        super().__init__({
            "i": In(stream.Signature(run_layout(config))),
            "o": Out(stream.Signature(weight_layout(config))),
            "command": Out(command_pins(config)),
            "data": In(8 * config.word_bytes),
            "counters": Out(COUNTERS),
            **({"i_normal": In(stream.Signature(normal_request(config))),
                "o_normal": Out(stream.Signature(normal_data(config), always_ready=True)),
                "normal_data": In(len(normal_data(config)["data"].shape))} if normal else {}),
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "WeightStreamer":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        return m
