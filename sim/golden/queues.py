"""Golden model of the queues of tokens, one per expert, of a layer's batch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...accelerators.experts.config import ExpertConfig
from ...accelerators.experts.errors import ExpertError

__all__ = ["ExpertQueues"]


@dataclass
class ExpertQueues:
    """``queues[expert]``: ``(token, weight)`` in the order of their arrival. What is refused leaves them as they are."""

    config: ExpertConfig
    queues: list[list[tuple[int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.queues = [[] for _ in range(self.config.experts)]

    def add(self, token: int, expert: int, weight: int, cause: int = ExpertError.NONE) -> int:
        """0, or why the token is refused."""
        config = self.config
        if cause:
            return cause
        if expert >= config.experts:
            return ExpertError.EXPERT
        if token >= config.max_tokens:
            return ExpertError.TOKEN
        if len(self.queues[expert]) == config.max_tokens or sum(map(len, self.queues)) == config.max_tokens * config.top_k:
            return ExpertError.QUEUE_FULL
        self.queues[expert].append((token, weight))
        return ExpertError.NONE

    def add_batch(self, items: Iterable[Mapping[str, int]]) -> list[dict[str, int]]:
        """Errors of a batch."""
        errors = []
        for item in items:
            cause = self.add(item["token"], item["expert"], item["weight"], item["cause"])
            if cause:
                errors.append({"token": item["token"], "expert": item["expert"], "cause": int(cause)})
        return errors

    @property
    def counts(self) -> list[int]:
        return [len(queue) for queue in self.queues]

    def read(self, expert: int) -> list[dict[str, int]]:
        """What a read gives."""
        if expert >= self.config.experts:
            return [{"token": 0, "weight": 0, "tokens": 0, "cause": int(ExpertError.EXPERT), "last": 1}]
        queue = self.queues[expert]
        return [{"token": token, "weight": weight, "tokens": len(queue), "cause": 0, "last": int(k == len(queue) - 1)}
                for k, (token, weight) in enumerate(queue)] or [{"token": 0, "weight": 0, "tokens": 0, "cause": 0, "last": 1}]
