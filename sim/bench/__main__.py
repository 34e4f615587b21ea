"""``python -m llmrtl.sim.bench UNIT --preset tiny``: lint one unit and run the menu on it."""

import argparse
import sys

from ...rtl_gen.lint import lint
from ...rtl_gen.registry import emit_unit, unit
from .runner import SIMULATORS, run_bench


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m llmrtl.sim.bench", description=__doc__)
    parser.add_argument("unit", help="name in rtl_gen/registry.py")
    parser.add_argument("--preset", help="default: the unit's first one")
    parser.add_argument("--sim", default="verilator", choices=SIMULATORS)
    parser.add_argument("--waves", action="store_true", help="record a waveform")
    parser.add_argument("--seed", type=int, help="default: $LLMRTL_SEED or random")
    parser.add_argument("--case", action="append", default=[], help="only this case; may be repeated")
    arguments = parser.parse_args()
    try:
        entry = unit(arguments.unit)
        emitted = emit_unit(entry, entry.config(arguments.preset or entry.presets[0]))
    except ValueError as error:
        parser.error(str(error))
    complaints = lint(emitted)
    for complaint in complaints:
        print(complaint)
    report = run_bench(emitted, entry.bench, arguments.sim, seed=arguments.seed,
                       cases=arguments.case, waves=arguments.waves)
    print(report)
    return 0 if report.ok and not complaints else 1


if __name__ == "__main__":
    sys.exit(main())
