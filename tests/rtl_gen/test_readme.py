"""What is written between the markers of README.md: rows that were measured here, the output of `make run`, nothing else."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from llmrtl.rtl_gen.commands import console_file
from llmrtl.rtl_gen.readme import FIGURES, MAKE_RUN, OUTPUT, TABLE, TESTS, refresh_readme
from llmrtl.rtl_gen.report import Measurement
from llmrtl.rtl_gen.yowasp import build_root

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = {
    "golden_match": True, "command": MAKE_RUN, "preset": "edge", "tokens_generated": 64, "cycles_per_decoded_token": 83186.9,
    "bytes_read_per_token": 588864, "read_utilization_decode": 0.8849, "read_utilization_prefill": 0.7576,
    "cycles_prefill": 153217, "prompt_tokens": 5}
GOLDEN = {
    "command": "python -m llmrtl.models.evaluate", "greedy_agreement": 0.9917, "greedy_tokens": 720, "identical_continuations": 11,
    "prompts": 15, "perplexity_transformers": 1.204, "perplexity_golden": 1.2038, "kl_divergence": 4.5e-5}
PRINTED = "stories: 5 prompt tokens\nOnce upon a time\n  engine    busy\nsummary: build/run/summary.json\n"
CYCLES = "| cycles per decoded token | 83,187 | `make run` (preset `edge`) |"
OLD = ["| cycles per decoded token | 99 | `by hand` |", "| the same: tokens per second at 250 MHz | 73.7 1/s (derived) | `old | new` |",
       "| mean KL divergence | 1.0e-05 nats | `elsewhere` |"]


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("\n".join(["# title", OUTPUT[0], "```", "old output", "```", OUTPUT[1], "between",
                               TESTS[0], "old tests", TESTS[1], TABLE[0],
                               "| figure | value (measured, unless marked) | reproduce with |", "|---|---|---|", *OLD, TABLE[1],
                               "after", ""]))
    return path


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Writes files into an empty build folder."""
    folder = tmp_path / "build"
    monkeypatch.setenv("LLMRTL_BUILD", str(folder))

    def write(**contents):
        for path, content in ((folder / "run" / "summary.json", contents.get("summary")),
                              (folder / "bench" / "golden.json", contents.get("golden")),
                              (folder / "bench" / "accelerator.json", contents.get("accelerator")),
                              (folder / "bench" / "kv260.json", contents.get("kv260"))):
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(content))
        if "summary" in contents:
            console_file(folder / "run" / "summary.json").write_text(PRINTED)
    return write


def rows(readme):
    return readme.read_text().partition(f"{TABLE[0]}\n")[2].partition(TABLE[1])[0].splitlines()[2:]


def output(readme):
    return readme.read_text().partition(f"{OUTPUT[0]}\n")[2].partition(OUTPUT[1])[0]


def test_nothing_measured_changes_nothing(readme, build):
    before = readme.read_text()
    assert refresh_readme(readme) is False and readme.read_text() == before


def test_measured_rows_are_replaced_and_the_others_kept(readme, build):
    build(summary=SUMMARY)
    assert refresh_readme(readme) is True
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows(readme)]
    assert names == [figure.name for figure in FIGURES if figure.source == "run/summary.json" or any(figure.name in row for row in OLD)]
    assert CYCLES in rows(readme) and OLD[1:] == rows(readme)[-2:] and OLD[0] not in readme.read_text()
    before, _, rest = readme.read_text().partition(OUTPUT[0])
    between = "\n".join([OUTPUT[1], "between", TESTS[0], "old tests", TESTS[1], TABLE[0]])
    assert before == "# title\n" and between in rest and rest.endswith(f"{TABLE[1]}\nafter\n")
    assert refresh_readme(readme) is False


def test_rows_come_in_the_order_of_the_figures(readme, build):
    readme.write_text(readme.read_text().replace("\n".join(OLD), "\n".join(reversed(OLD))))
    build(golden=GOLDEN)
    refresh_readme(readme)
    assert len(rows(readme)) == 6 and rows(readme)[:2] == OLD[:2]
    assert rows(readme)[-1] == "| mean KL divergence | 4.5e-05 nats | `python -m llmrtl.models.evaluate` |"


def test_kind_is_marked_and_a_figure_without_value_is_not_measured(readme, build):
    speed = Measurement("decode-128-ddr4/tokens_per_second", 80.0, "1/s", "derived", "llmrtl run --tokens 2 --json x.json", "a / b")
    share = Measurement("decode-128-ddr4/memory.share_of_bound.decode", 0.949, "%", "measured", "llmrtl run")
    nothing = Measurement("decode-1024-ddr4/tokens_per_second", None, "1/s", "derived", "llmrtl run", "not run")
    build(kv260={"measurements": [asdict(each) for each in (speed, share, nothing)]})
    refresh_readme(readme)
    assert rows(readme) == [OLD[0], "| the same on DDR4-2400: share of the bound | 94.9% | `llmrtl run` |",
                            "| the same: tokens per second at 250 MHz | 80.0 1/s (derived) | `llmrtl run --tokens 2` |", OLD[2]]


def test_output_is_that_of_make_run(readme, build):
    build(summary=SUMMARY)
    refresh_readme(readme)
    assert output(readme) == f"```\n{PRINTED}```\n"


@pytest.mark.parametrize("change", [{"golden_match": False}, {"command": f"{MAKE_RUN} --prompt Hello"}, {"command": None}])
def test_another_run_is_not_taken(readme, build, change):
    before = readme.read_text()
    build(summary=SUMMARY | change)
    assert refresh_readme(readme) is False and readme.read_text() == before


def test_output_of_the_tests(readme, build):
    (build_root() / "test.txt").parent.mkdir(parents=True)
    (build_root() / "test.txt").write_text("3 passed\n")
    assert refresh_readme(readme) is True and f"{TESTS[0]}\n```\n3 passed\n```\n{TESTS[1]}" in readme.read_text()


def test_size_and_clock(readme, build):
    made_by = "llmrtl synth accelerator --preset edge --target ecp5 --pnr"
    build(accelerator={"measurements": [asdict(Measurement(f"accelerator/ecp5/{name}", value, "", "measured", made_by))
                                        for name, value in (("fmax", 72.13), ("used/DSP", 111))]})
    refresh_readme(readme)
    command = "`llmrtl synth accelerator --preset edge --target ecp5 --pnr`"
    assert f"| the same: MULT18X18D | 111 | {command} |" in rows(readme)
    assert any(row.startswith("| `edge` placed and routed") and "72.1" in row for row in rows(readme))


@pytest.mark.parametrize("marker", [*TABLE, *OUTPUT, *TESTS])
def test_missing_marker(readme, build, marker):
    text = readme.read_text().replace(marker, "")
    readme.write_text(text)
    build(summary=SUMMARY)
    with pytest.raises(ValueError, match=r"README.md: must have the lines '<!-- "):
        refresh_readme(readme)
    assert readme.read_text() == text


def test_unknown_row(readme, build):
    readme.write_text(readme.read_text().replace(OLD[2], "| typed by hand | 7 | nothing |"))
    with pytest.raises(ValueError, match=r"README.md: the table has a row that rtl_gen/readme.py does not know: 'typed by hand'"):
        refresh_readme(readme)


def test_the_files_of_the_project(build):
    """`make run` is the command that the code takes it for; README.md has the markers and no unknown row."""
    assert f"$(BIN)/{MAKE_RUN}\n" in (ROOT / "Makefile").read_text()
    assert refresh_readme(ROOT / "README.md") is False
