"""Golden model of the expert unit's sequencer: descriptors and token lists become items of the unit, and answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.errors import ExpertError
from ...accelerators.experts.instructions import Kind
from .expert_attention import no_attention
from .experts import Route

__all__ = ["Batch", "ExpertSequencer", "Step"]


@dataclass(frozen=True)
class Batch:
    """What the dispatch says of a batch: ``lists`` of Logic-PIM's experts, ascending, of ``(token, weight)``."""

    lists: Mapping[int, Sequence[Route]]
    error: bool = False


@dataclass(frozen=True)
class Step:
    """An answer (its cause only if there is no item: else it is what the unit says), and the item of the unit with its tokens."""

    answer: dict[str, int]
    item: dict[str, Any] | None = None
    tokens: Sequence[Route] = ()


@dataclass
class ExpertSequencer:
    """``take`` for each descriptor. ``cleared``: all outputs are 0."""

    config: ExpertConfig
    table: dict[int, dict[str, Any]] = field(default_factory=dict)
    cleared: bool = True
    hidden_words: int = 0

    def take(self, operation: dict[str, Any], batches: Iterator[Batch]) -> list[Step]:
        """``operation``: from the decoder (``decode_descriptor``)."""
        if operation["cause"]:
            return [self._step(operation, operation["cause"])]
        if operation["kind"] == Kind.EXPERT:
            self.table[operation["expert"]] = operation
            return [self._step(operation)]
        self.cleared |= bool(operation["begin"])
        if operation["kind"] == Kind.ATTENTION:
            heads = [(operation["query"] + k, 0) for k in range(operation["group"])]
            return [self._item(operation, operation, heads)]
        batch = next(batches)
        steps = [self._item(operation, self.table.get(expert), tokens, expert) for expert, tokens in batch.lists.items()]
        self.table.clear()
        return [*steps, self._step(operation, ExpertError.TABLE if batch.error else ExpertError.NONE)]

    def _step(self, operation: dict[str, Any], cause: int = ExpertError.NONE, expert: int | None = None) -> Step:
        return Step({"tag": operation["tag"], "expert": expert or 0, "cause": int(cause), "end": int(expert is None)})

    def _item(self, operation: dict[str, Any], matrices: dict[str, Any] | None, tokens: Sequence[Route],
              expert: int | None = None) -> Step:
        if matrices is None:
            return self._step(operation, ExpertError.MISSING, expert)
        if not self.cleared and matrices["hidden_words"] != self.hidden_words:
            return self._step(operation, ExpertError.DIMENSIONS, expert)
        names = ["gate_up", "down", "hidden_words", "slice_words", *([] if self.config.format.exponent_bits else ["scales"])]
        item = {name: matrices[name] for name in names} | {"first": int(self.cleared)} | no_attention(self.config)
        if expert is None:
            item |= {"attention": 1} | {name: operation[name] for name in ("positions", "softmax_scale")}
        self.cleared, self.hidden_words = False, matrices["hidden_words"]
        return Step(self._step(operation, expert=expert).answer, item, tokens)
