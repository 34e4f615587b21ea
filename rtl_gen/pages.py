"""Figures on the pages of ``docs``: rows of the tables of ``docs/RESULTS.md``, between markers; none is typed by hand.

A page says which rows it shows, in the order in which it names them::

    <!-- docs/RESULTS.md, Units on Lattice ECP5: window_cache, attention at tiny_modes -->
    <!-- end of figures -->

``llmrtl bench`` fills them in when it has written docs/RESULTS.md, ``python -m llmrtl.rtl_gen.pages`` at any time.
"""

import re
from pathlib import Path

from .emit import write_if_changed
from .report import RESULTS

__all__ = ["refresh_pages", "with_figures"]

LEFT_OUT = ("critical path",)
"""Columns that pages do not show."""

_BEGIN, _END = "<!-- docs/RESULTS.md, ", "<!-- end of figures -->"
_MARKED = re.compile(rf"^({re.escape(_BEGIN)}(?P<heading>[^:\n]+): (?P<rows>[^\n]+) -->)\n.*?^({re.escape(_END)})$", re.M | re.S)


def refresh_pages(results: Path = RESULTS) -> list[Path]:
    """Fill in the figures of all pages beside ``results``; the pages that changed.

    ``ValueError``, and no page changes, if one wants a heading or a row that is not there, or has a marker without the other.
    """
    text = results.read_text()
    pages = {page: with_figures(page, page.read_text(), text) for page in sorted(results.parent.glob("*.md")) if page != results}
    return [page for page, shown in pages.items() if write_if_changed(page, shown)]


def with_figures(page: Path, text: str, results: str) -> str:
    """``text`` of ``page`` with the figures of ``results``."""
    if not len(_MARKED.findall(text)) == text.count(_BEGIN) == text.count(_END):
        raise ValueError(f"{page}: needs {_BEGIN}HEADING: ROWS --> and {_END} in turns, each on a line of its own")

    def shown(marked: re.Match[str]) -> str:
        try:
            table = _table(results, marked["heading"], marked["rows"].split(", "))
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from None
        return "\n".join((marked[1], *table, marked[4]))

    return _MARKED.sub(shown, text)


def _table(results: str, heading: str, names: list[str]) -> list[str]:
    """Lines of the first table below a heading, with the rows called ``names``."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(?:(?!#).*\n)*?((?:\|.*\n)+)", results, re.M)
    if found is None:
        raise ValueError(f"docs/RESULTS.md has no table {heading!r}")
    head, rule, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in found[1].splitlines())
    shown = [number for number, title in enumerate(head) if title not in LEFT_OUT]
    known = {row[0]: row for row in rows}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"docs/RESULTS.md, {heading!r}, has no row {', '.join(map(repr, unknown))}")
    return [f"| {' | '.join(row[number] for number in shown)} |" for row in (head, rule, *(known[name] for name in names))]


if __name__ == "__main__":
    refresh_pages()
