"""Golden model of the dispatch: token lists of a batch's experts, from its router logits, for Logic-PIM and for the xPU."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...accelerators.experts.config import ExpertConfig
from .coprocess import Decision, decide
from .queues import ExpertQueues
from .router import route

__all__ = ["Dispatched", "dispatch"]


@dataclass(frozen=True)
class Dispatched:
    """What comes of a batch.

    Attributes
    ----------
    errors : list
        ``{token, expert, cause}`` of the tokens that were refused.
    decision : Decision
    pim, xpu : dict
        Experts of either side that have tokens, ascending, with their lists of ``(token, weight)``; none if the decision is an error.
    """

    errors: list[dict[str, int]]
    decision: Decision
    pim: dict[int, list[tuple[int, int]]]
    xpu: dict[int, list[tuple[int, int]]]


def dispatch(config: ExpertConfig, logits: Sequence[Sequence[int]], xpu: Sequence[int], pim: Sequence[int], *,
             spaces: bool = False) -> Dispatched:
    """``logits[token]``: bits of ``result_format``; ``xpu[n]``, ``pim[n]``: time of an expert with n tokens."""
    queues, items = ExpertQueues(config), []
    for token, each in enumerate(logits):
        selected, cause = route(config, each)
        for expert, weight in selected or [(0, config.result_format.nan)]:
            items.append({"token": token, "expert": expert, "weight": weight, "cause": int(cause)})
    errors = queues.add_batch(items)
    decision = decide(queues.counts, xpu, pim, spaces=spaces)
    sides: list[dict[int, list[tuple[int, int]]]] = [{}, {}]
    for expert, tokens in enumerate(queues.queues):
        if tokens and not decision.error:
            sides[decision.mask >> expert & 1][expert] = tokens
    return Dispatched(errors, decision, pim=sides[1], xpu=sides[0])
