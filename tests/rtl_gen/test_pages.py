"""Figures on the pages of docs are those of docs/RESULTS.md."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from llmrtl.rtl_gen.pages import refresh_pages, with_figures
from llmrtl.rtl_gen.registry import UNITS
from llmrtl.rtl_gen.synthesis import measured_units, unit_name

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = """# Results
## Small
Text.

| unit | LUT | critical path | latency |
|---|--:|---|--:|
| queue | 1,234 | `a -> b` | read 1, write 2 |
| queue at tiny | 5 | `c` | 3 |

| second | table |
|---|---|
| other | 7 |
### Below
## Nothing
"""
BEGIN, END = "<!-- docs/RESULTS.md, Small: queue at tiny, queue -->", "<!-- end of figures -->"
TABLE = """| unit | LUT | latency |
| --- | --: | --: |
| queue at tiny | 5 | 3 |
| queue | 1,234 | read 1, write 2 |"""


def folder(tmp_path, text):
    (tmp_path / "RESULTS.md").write_text(RESULTS)
    (tmp_path / "page.md").write_text(text)
    return tmp_path / "RESULTS.md"


def test_rows_come_in_the_order_of_the_page_without_paths(tmp_path):
    results = folder(tmp_path, f"before\n{BEGIN}\nold figures\n{END}\nbetween\n{BEGIN}\n{END}\nafter\n")
    assert refresh_pages(results) == [tmp_path / "page.md"]
    filled = f"{BEGIN}\n{TABLE}\n{END}\n"
    assert (tmp_path / "page.md").read_text() == f"before\n{filled}between\n{filled}after\n"
    assert refresh_pages(results) == [] and results.read_text() == RESULTS


@pytest.mark.parametrize("text, message", [
    (f"{BEGIN}\n", "needs <!-- docs/RESULTS.md, HEADING: ROWS --> and <!-- end of figures --> in turns"),
    (f"{END}\n", "in turns"), (f"{END}\n{BEGIN}\n", "in turns"), (f"{BEGIN}\n{BEGIN}\n{END}\n{END}\n", "in turns"),
    (f"{BEGIN} {END}\n", "each on a line of its own"),
    (f"{BEGIN.replace('queue at tiny', 'fork')}\n{END}\n", "docs/RESULTS.md, 'Small', has no row 'fork'"),
    (f"{BEGIN.replace('queue at tiny', 'other')}\n{END}\n", "docs/RESULTS.md, 'Small', has no row 'other'"),
    (f"{BEGIN.replace('Small', 'Large')}\n{END}\n", "docs/RESULTS.md has no table 'Large'"),
    (f"{BEGIN.replace('Small', 'Nothing')}\n{END}\n", "docs/RESULTS.md has no table 'Nothing'"),
    (f"{BEGIN.replace('Small', 'Below')}\n{END}\n", "docs/RESULTS.md has no table 'Below'")])
def test_bad_pages(tmp_path, text, message):
    results = folder(tmp_path, text)
    (tmp_path / "another.md").write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(ValueError, match=rf"page\.md: .*{re.escape(message)}"):
        refresh_pages(results)
    assert (tmp_path / "page.md").read_text() == text and (tmp_path / "another.md").read_text() == f"{BEGIN}\n{END}\n"


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md") if page.name != "RESULTS.md"))
def test_figures_in_the_docs(page):
    """`python -m llmrtl.rtl_gen.pages` writes them."""
    text = (DOCS / page).read_text()
    assert with_figures(Path(page), text, (DOCS / "RESULTS.md").read_text()) == text


def pages_of_units():
    """Of each row of units that pages show, their texts."""
    found = defaultdict(list)
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        for rows in re.findall(r"^<!-- docs/RESULTS\.md, Units[^:]*: (.*) -->$", text, re.M):
            for row in rows.split(", "):
                found[row].append(text)
    return found


@pytest.mark.parametrize("row", [row for row in measured_units()
                                 if re.match(r"llmrtl\.accelerators\.(attention|cache)\.", UNITS[unit_name(row)].component)])
def test_units_of_attention_and_of_the_cache_have_a_page(row):
    """With their figures, and every state of their state machines."""
    pages = pages_of_units()[row]
    assert pages, "no page shows its figures"
    module = UNITS[unit_name(row)].component.removeprefix("llmrtl.").partition(":")[0]
    states = re.findall(r'm\.State\("(\w+)"\)', (DOCS.parent / f"{module.replace('.', '/')}.py").read_text())
    assert any(all(re.search(rf"\b{state}\b", page) for state in states) for page in pages), states


def test_also_measured_presets_are_in_the_menu():
    """Their latency is measured there; of a preset that is measured anyway there is one row."""
    for unit in UNITS.values():
        assert set(unit.also_measured) <= set(unit.presets) - {unit.measured}, unit.name
