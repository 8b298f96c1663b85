"""House rules that no linter holds, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES, MODULE_LINES = 70, 350
TIME_READERS = {"time", "perf_counter", "monotonic", "process_time", "thread_time", "clock_gettime", "localtime"} | {
    *("time_ns", "perf_counter_ns", "monotonic_ns", "process_time_ns", "thread_time_ns", "clock_gettime_ns"),
    *("gmtime", "sleep", "ctime", "strftime"),
}
DATE_READERS = {"now", "utcnow", "today"}


@dataclass(frozen=True)
class Source:
    """One module of ours."""

    name: str
    """Path from the root of the project, with slashes."""
    lines: int
    tree: ast.Module


def parsed(name: str, text: str) -> Source:
    return Source(name, len(text.splitlines()), ast.parse(text, name))


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """All modules under these folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(parsed(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_functions(source: Source) -> list[str]:
    """Functions of more lines than fit on a screen, decorators not counted."""
    return [
        f"{source.name}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in functions(source)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


def long_modules(source: Source) -> list[str]:
    return [f"{source.name} has {source.lines} lines"] if source.lines > MODULE_LINES else []


def time_readers(source: Source) -> list[str]:
    """Where ``time`` or today's date is read, however it was imported."""
    modules = {"time": "time", "datetime": "datetime"}
    taken: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname: alias.name for alias in node.names if alias.asname and alias.name in modules}
        elif isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}:
            taken |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            told = _dotted(node)
            first, _, rest = told.partition(".")
            told = f"{modules.get(first, taken.get(first, first))}.{rest}"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            told = taken.get(node.id, "")
        else:
            continue
        home, _, reader = told.rpartition(".")
        reads_clock = home == "time" and reader in TIME_READERS
        reads_date = reader in DATE_READERS and home.split(".")[0] == "datetime"
        if reads_clock or reads_date:
            found.append(f"{source.name}:{node.lineno} reads {told}")
    return found


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def prints(source: Source) -> list[str]:
    """``print`` to the terminal; one that names a file of its own is a writer."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            files = [_dotted(keyword.value) for keyword in node.keywords if keyword.arg == "file"]
            if not files or files[0].startswith("sys."):
                found.append(f"{source.name}:{node.lineno} prints")
    return found


def bare_excepts(source: Source) -> list[str]:
    return [
        f"{source.name}:{node.lineno} catches everything"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def undescribed_tests(source: Source) -> list[str]:
    """Tests, and methods of test classes, that do not say which rule they guard."""
    return [
        f"{source.name}:{node.lineno} {node.name} says nothing"
        for node in functions(source)
        if node.name.startswith("test_") and not (ast.get_docstring(node) or "").strip()
    ]


def test_functions_fit_on_a_screen() -> None:
    """No function of the daemon or the trainer is longer than 70 lines."""
    found = [line for source in sources("inspector", "train") for line in long_functions(source)]
    assert not found, "\n".join(found)


def test_modules_stay_short() -> None:
    """No module of the daemon or the trainer is longer than 350 lines."""
    found = [line for source in sources("inspector", "train") for line in long_modules(source)]
    assert not found, "\n".join(found)


def test_only_the_clock_reads_time() -> None:
    """Everything but clock.py is handed a Clock, so that tests and the drill can push time."""
    found = [
        line for source in sources("inspector") if source.name != "inspector/clock.py" for line in time_readers(source)
    ]
    assert not found, "\n".join(found)


def test_only_the_command_line_prints() -> None:
    """The daemon speaks through its journal; only inspector/cli writes to the terminal."""
    found = [
        line
        for source in sources("inspector")
        if not source.name.startswith("inspector/cli/")
        for line in prints(source)
    ]
    assert not found, "\n".join(found)


def test_no_bare_except() -> None:
    """No handler catches everything without saying so."""
    found = [line for source in sources("inspector", "train") for line in bare_excepts(source)]
    assert not found, "\n".join(found)


def test_every_test_names_its_rule() -> None:
    """Each test says in a docstring which rule it guards."""
    found = [line for source in sources("tests") for line in undescribed_tests(source)]
    assert not found, "\n".join(found)


_LONG = "def f():\n" + "    x = 1\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (long_functions, _LONG),
        (long_modules, "x = 1\n" * (MODULE_LINES + 1)),
        (time_readers, "import time\ntime.monotonic_ns()"),
        (time_readers, "import time as t\nt.sleep(1)"),
        (time_readers, "from time import perf_counter as tick\ntick()"),
        (time_readers, "from datetime import datetime, UTC\ndatetime.now(UTC)"),
        (time_readers, "import datetime\ndatetime.datetime.utcnow()"),
        (time_readers, "import datetime as d\nd.date.today()"),
        (time_readers, "from time import time\nread = time"),
        (prints, "print('x')"),
        (prints, "print('x', file=sys.stderr)"),
        (bare_excepts, "try:\n    pass\nexcept:\n    pass"),
        (undescribed_tests, "class TestX:\n    def test_y(self):\n        pass"),
    ],
)
def test_each_rule_sees_its_offence(rule: object, text: str) -> None:
    """A planted offence is found: a rule that sees nothing guards nothing."""
    assert callable(rule)
    assert rule(parsed("planted.py", text))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (long_functions, _LONG.replace("    x = 1\n", "", 1)),
        (long_modules, "x = 1\n" * MODULE_LINES),
        (time_readers, "clock.now_ns()\nself.time()\nfrom datetime import datetime\ndatetime.fromtimestamp(0)"),
        (prints, "print('x', file=results)\nconsole.print('x')"),
        (bare_excepts, "try:\n    pass\nexcept OSError:\n    pass"),
        (undescribed_tests, 'def test_y():\n    """A rule."""'),
    ],
)
def test_no_rule_sees_what_is_not_there(rule: object, text: str) -> None:
    """Lawful code passes."""
    assert callable(rule)
    assert not rule(parsed("lawful.py", text))
