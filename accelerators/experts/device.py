"""The whole of Duplex's expert side on a pseudo channel: instruction decoder, dispatch, and the Logic-PIM unit with its memory."""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..streams import Fork, StreamBuffer, connect
from .config import ExpertConfig
from .decoder import InstructionDecoder
from .dispatch import ExpertDispatch
from .sequencer import ExpertSequencer, answer_layout
from .unit import ExpertUnit

__all__ = ["ExpertDevice"]

DISPATCH = {"i_logits": "i", "i_table": "i_table", "o_token_errors": "o_errors", "o_xpu": "o_xpu"}
"""Streams of the dispatch that are the device's too, under its own names."""

UNIT = ("i_x", "i_read", "o_read", "i_normal", "o_normal", "command", "data", "normal_data", "counters", "memory_counters")


class ExpertDevice(wiring.Component):
    """From descriptors and router logits to outputs (Duplex, arXiv:2409.01141, sections 5 and 6)::

        i --------> InstructionDecoder ------------> ExpertSequencer ----> o (answers)
                                                      |    ^   |  ^
        i_logits -> ExpertDispatch -> o_xpu           |    |   |  | items, tokens
                     |    '-- lists of Logic-PIM -----'    |   v  |
                     '------- decision --------------------'  ExpertUnit -> o_read
                                '-> o_decision                 ^     |
        i_x ---------------------------------------------------'     '---> memory

    The host describes the experts of a layer, gives logits and activations of a batch, and sends a LAYER; or, with
    ``config.attention``, gives the query heads and sends an ATTENTION. Descriptors are executed in their order; a LAYER takes the
    dispatch's next decision, which may come before or after it. See ``instructions.py`` for the descriptors, ``ExpertSequencer``
    for their order and what is refused.

    Parameters
    ----------
    config : ExpertConfig
        ``max_intermediate`` is of the unit's share of the experts, and the most positions of a context.

    Members
    -------
    i : In(stream of {word: 32, last})
        Descriptors; see ``InstructionDecoder``.
    o : Out(stream of answer_layout)
        See ``ExpertSequencer``: what an answer is for is in the output buffer, or refused with a cause.
    i_logits : In(stream of {logit, last, end})
    i_table : In(stream of {xpu: 24, pim: 24, last})
    spaces : In(1)
    o_token_errors, o_decision, o_xpu : Out(streams)
        ``i``, ``i_table``, ``spaces``, ``o_errors``, ``o_decision``, ``o_xpu`` of ``ExpertDispatch``. A batch's lists for the xPU come
        before those for Logic-PIM.
    i_x : In(stream of {token, word, value}, always_ready=True)
        Into the input buffer; not from when a LAYER or an ATTENTION is sent until it is answered.
    i_read : In(stream of {token, element})
    o_read : Out(stream of bits of result_format)
        Outputs; 0 for tokens that nothing was added to since the last ``begin``. Stable from the answer to the last LAYER or ATTENTION
        until another is sent.
    command, data, i_normal, o_normal, normal_data
        See ``WeightStreamer``.
    counters, memory_counters : Out
        See ``ExpertUnit``.

    Latency: ``latency`` cycles from the last word of a LAYER without lists to its answer, if its batch is decided. Interval: that of
    ``ExpertUnit``; the next item is there before it is through with one.
    """

    interval = None

    def __init__(self, config: ExpertConfig):
        self.config = config
        self._decoder, self._dispatch, self._unit = InstructionDecoder(config), ExpertDispatch(config), ExpertUnit(config)
        self.latency = self._decoder.latency + 4
        dispatch, unit = self._dispatch.signature.members, self._unit.signature.members
        super().__init__({
            "i": self._decoder.signature.members["i"],
            "o": Out(stream.Signature(answer_layout(config))),
            **{name: dispatch[inner] for name, inner in DISPATCH.items()}, "spaces": In(1), "o_decision": dispatch["o_decision"],
            **{name: unit[name] for name in UNIT},
        })

    @classmethod
    def for_config(cls, config: ExpertConfig) -> "ExpertDevice":
        return cls(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = self._decoder
        m.submodules.dispatch = dispatch = self._dispatch
        m.submodules.sequencer = sequencer = ExpertSequencer(self.config)
        m.submodules.unit = unit = self._unit
        connect(m, wiring.flipped(self.i), decoder.i)
        connect(m, decoder.o, sequencer.i)
        connect(m, dispatch.o, sequencer.i_list)
        connect(m, sequencer.o_item, unit.i)
        connect(m, sequencer.o_tokens, unit.i_tokens)
        connect(m, unit.o, sequencer.i_done)
        connect(m, sequencer.o, wiring.flipped(self.o))

        m.submodules.decided = decided = Fork(dispatch.o_decision.p.shape(), 2)
        m.submodules.decision = decision = StreamBuffer(sequencer.i_decision.p.shape())
        connect(m, dispatch.o_decision, decided.i)
        connect(m, decided.o[0], wiring.flipped(self.o_decision))
        connect(m, decision.o, sequencer.i_decision)
        m.d.comb += [decision.i.valid.eq(decided.o[1].valid), decided.o[1].ready.eq(decision.i.ready),
                     *(decision.i.p[name].eq(decided.o[1].p[name]) for name in ("pim", "error")),
                     dispatch.spaces.eq(self.spaces)]

        for names, part in ((DISPATCH, dispatch), ({name: name for name in UNIT}, unit)):
            for name, inner in names.items():
                outer, port = getattr(self, name), getattr(part, inner)
                if name.startswith("i_"):
                    connect(m, wiring.flipped(outer), port)
                elif name in ("data", "normal_data"):
                    m.d.comb += port.eq(outer)
                elif name == "o_read":
                    # Nothing was added since ``begin``: the unit itself begins anew with its next item only.
                    m.d.comb += [outer.valid.eq(port.valid), port.ready.eq(outer.ready),
                                 outer.p.eq(Mux(sequencer.cleared, 0, port.p))]
                elif name.startswith("o_"):
                    connect(m, port, wiring.flipped(outer))
                else:
                    m.d.comb += outer.eq(port)
        return m
