"""Checks that a test fails if a line that carries a guarantee is changed.

mutmut makes the mutants and runs the judges; here are only which modules, which tests, how many, and the table.

    make mutants                                200 mutants of the modules in judged.toml, the same each time
    make mutants ARGS="--seed 7"                200 others
    make mutants ARGS="--sample 0"              every one: an hour on a busy machine
    make mutants ARGS="--sample 0 tasks/spans.py"
"""

import argparse
import fnmatch
import json
import random
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutmut import configuration
from mutmut.__main__ import _run
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name, orig_function_and_class_names_from_key

HERE = Path(__file__).parent
WORK = Path("mutants")
LEAST_PER_CENT = 90.0
KILLED = ("killed", "timeout", "segfault")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant."""

    module: str
    function: str
    was: str
    becomes: str
    status: str


def main() -> int:
    """Run what is asked for; 1 where too few mutants were killed."""
    asked = _arguments()
    _configure()
    if asked.of_names:
        _judge(json.loads(sys.stdin.read()))
        return 0
    judged = tomllib.loads((HERE / "judged.toml").read_text())
    names = _chosen(judged["modules"], asked)
    if not names:
        sys.exit(f"mutants: {HERE / 'judged.toml'} has no {' or '.join(asked.modules)}")
    modules = sorted({module for module, _ in names})
    tests = sorted({test for module in modules for test in judged["modules"][module]})
    asking = {
        "modules": modules,
        "tests": tests,
        "left_out": judged["left_out"]["tests"],
        "names": [n for _, n in names],
    }
    try:
        # In a process of its own: mutmut keeps its state in its modules, and its forks inherit what is imported.
        shutil.rmtree(WORK, ignore_errors=True)
        command = [sys.executable, __file__, "--of-names"]
        done = subprocess.run(
            command, input=json.dumps(asking), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            print(done.stdout.replace("\r", "\n")[-4000:], file=sys.stderr)
            sys.exit("mutants: mutmut failed, see above")
        verdicts = list(_verdicts(modules, {name for _, name in names}))
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    return _tell(verdicts, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="those of judged.toml; none: all")
    parser.add_argument(
        "--sample", type=int, default=200, metavar="N", help="that many mutants, drawn from a seed; 0: all"
    )
    parser.add_argument("--seed", type=int, default=1, help="which sample; the same seed draws the same")
    parser.add_argument("--report", type=Path, default=Path("build/mutants.md"), help="where the table goes")
    parser.add_argument("--of-names", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _configure(**changes: Any) -> None:
    configuration.reset_config()
    configuration._config = replace(configuration.config(), **changes)


def _chosen(judged: Mapping[str, Sequence[str]], asked: argparse.Namespace) -> list[tuple[str, str]]:
    """The mutants that are to be judged, each with its module."""
    wanted = [
        (module, name)
        for module in judged
        if not asked.modules or any(fnmatch.fnmatch(module, each) for each in asked.modules)
        for name in _mutants_of(module)
    ]
    if 0 < asked.sample < len(wanted):
        drawn = sorted(random.Random(asked.seed).sample(range(len(wanted)), asked.sample))
        return [wanted[each] for each in drawn]
    return wanted


def _mutants_of(module: str) -> list[str]:
    made = mutate_file_contents(module, Path(module).read_text())
    return [get_mutant_name(Path(module), name) for name in made.mutant_names]


def _judge(asking: Mapping[str, Sequence[str]]) -> None:
    """Let mutmut run the judges on these mutants."""
    settings = configuration.config()
    _configure(
        only_mutate=list(asking["modules"]),
        pytest_add_cli_args_test_selection=list(asking["tests"]),
        pytest_add_cli_args=[*settings.pytest_add_cli_args, *(f"--deselect={each}" for each in asking["left_out"])],
    )
    _run(tuple(asking["names"]), 2)


def _verdicts(modules: Sequence[str], asked: Collection[str]) -> Iterator[Verdict]:
    for module in modules:
        codes = json.loads((WORK / f"{module}.meta").read_text())["exit_code_by_key"]
        for name, code in codes.items():
            if name in asked:
                yield _verdict(module, name, status_by_exit_code[code])


def _verdict(module: str, name: str, status: str) -> Verdict:
    function, owner = orig_function_and_class_names_from_key(name)
    lines = get_diff_for_mutant(name, path=module).splitlines()[2:] if status not in KILLED else []
    was, becomes = ("\n".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in ("-", "+"))
    return Verdict(module, f"{owner}.{function}" if owner else function, was, becomes, status)


def _equivalents() -> dict[tuple[str, str, str, str], str]:
    """The mutants that no observable behaviour tells from the code, and why."""
    path = HERE / "equivalents.toml"
    listed = tomllib.loads(path.read_text())["equivalent"] if path.exists() else []
    return {(each["module"], each["function"], each["was"], each["becomes"]): each["why"] for each in listed}


def _tell(verdicts: Sequence[Verdict], asked: argparse.Namespace) -> int:
    known = _equivalents()
    left = [each for each in verdicts if each.status not in KILLED]
    survivors = [each for each in left if (each.module, each.function, each.was, each.becomes) not in known]
    equal = Counter(each.module for each in left if each not in survivors)
    alive, total = Counter(each.module for each in survivors), Counter(each.module for each in verdicts)
    rows = [
        "| module | mutants | killed | survived | equivalent | score |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_row(f"`{module}`", total[module], alive[module], equal[module]) for module in total),
        _row("**all**", total.total(), alive.total(), equal.total()),
    ]
    what = f"Up to {asked.sample} mutants, seed {asked.seed}." if asked.sample else "Every mutant."
    print(what, *rows, sep="\n")
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    diffs = [f"`{each.module}`, `{each.function}`, {each.status}:\n\n```diff\n{_diff(each)}\n```" for each in survivors]
    asked.report.write_text("\n".join([what, "", *rows, "", "## Survivors", "", "\n\n".join(diffs) or "None.", ""]))
    facts = [[each.module, each.function, each.was, each.becomes, each.status] for each in survivors]
    asked.report.with_suffix(".json").write_text(json.dumps(facts, indent=1))
    score = _score(total.total(), alive.total(), equal.total())
    if score < LEAST_PER_CENT:
        print(f"mutants: {score:.1f} % were killed, at least {LEAST_PER_CENT:.0f} % have to be; those that live are in "
              f"{asked.report}", file=sys.stderr)  # fmt: skip
    return int(score < LEAST_PER_CENT)


def _row(what: str, total: int, alive: int, equal: int) -> str:
    return f"| {what} | {total} | {total - alive - equal} | {alive} | {equal} | {_score(total, alive, equal):.1f} % |"


def _score(total: int, alive: int, equal: int) -> float:
    return 100 * (total - alive - equal) / (total - equal) if total > equal else 100.0


def _diff(each: Verdict) -> str:
    return "\n".join(
        [*(f"- {line}" for line in each.was.split("\n")), *(f"+ {line}" for line in each.becomes.split("\n"))]
    )


if __name__ == "__main__":
    sys.exit(main())
