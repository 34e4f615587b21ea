"""One thread for matrix products: golden model and simulator run side by side, and the threads of a BLAS library spin while
they wait. On two busy cores one thread was four times as fast as two."""

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]


@cache
def _controller() -> ThreadpoolController:
    """Finds the libraries that are loaded, once."""
    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager:
    """Context in which NumPy's matrix products use one thread."""
    return _controller().limit(limits=1, user_api="blas")
