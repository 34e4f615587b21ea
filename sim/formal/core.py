"""Rules of streams of the expert unit without its memory."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Assert, Assume, Module, Signal

from ...accelerators.experts.core import ExpertCore
from .contract import StreamContract
from .machines import in_states

__all__ = ["CoreContract"]


class CoreContract(StreamContract):
    """With any GEMM module, path of results and path of attention that keep the rules of streams, and any lanes whose output stands
    still without ``en``: runs are asked for while an item waits whose tokens have all been gathered, until it is taken; the gathering
    unit is free when it is given a list."""

    component: ExpertCore

    def _design(self, platform):
        core: Any = self.component
        for part in ("_gemm", "_results", *(["_attention"] if core.config.attention else [])):
            setattr(core, part, self._any(getattr(core, part), part[1:]))
        names = type(core).elaborate.__globals__
        operation = names["Operation"](core.config)
        inner = self._walk(operation, platform)
        operation.elaborate = lambda platform: inner
        with patch.dict(names, Operation=lambda config: operation):
            m = core.elaborate(platform)

        gathered, accepts, attention = core._gather.o_done, in_states(m, "accept", "GATHER"), core.config.attention
        waits, ready = Signal(), accepts & gathered.valid & ~gathered.p.error
        m.d.sync += waits.eq(core.i.valid & ~core.i.ready)
        known = [core._gather.i.ready == ~accepts, in_states(m, "accept", "NEXT") | waits]
        asks = in_states(inner, "ask", "WORDS", "RUN", "TASK", *(["KEEP"] if attention else []))
        if attention:
            ready &= ~core.i.p.attention | (gathered.p.tokens <= core.config.token_lanes)
            asks |= in_states(inner, "ask", "RUN_KEPT", "TASK_KEPT") & operation._down
            known.append(~in_states(inner, "ask", "WAIT", "WORDS") | ~operation._down)
        m.d.comb += [Assert(each) for each in (*known, ~asks | ready)]
        return m

    def _walk(self, operation, platform) -> Module:
        """The operation's module, with any lanes."""
        names: dict[str, Any] = type(operation).elaborate.__globals__
        kind = names["TokenLanes"]
        made: list[Any] = []

        def any_lanes(*parameters, **options):
            made.append(self._any(kind(*parameters, **options), f"lanes_{len(made)}"))
            return made[-1]
        with patch.dict(names, TokenLanes=any_lanes):
            m = operation.elaborate(platform)
        for lanes in made:
            still, before = Signal(), Signal.like(lanes.o)
            m.d.sync += [still.eq(~lanes.en), before.eq(lanes.o)]
            m.d.comb += Assume(~still | (lanes.o.as_value() == before.as_value()))
        return m
