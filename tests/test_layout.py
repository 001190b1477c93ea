"""The package keeps its rooms: no circle among modules, engine apart from content, short files."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from helpers.authoring import ROOT

MOST_LINES = 520
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "helpers").rglob("*.py"))
}


def imported(source: str, known: set[str]) -> set[str]:
    """Modules of ours that a source imports, also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{name.name}" for name in node.names}
            # `from helpers import lens` needs the module, not what the package offers beside it.
            found |= (inside & known) or {node.module}
    return found & known


def graph() -> dict[str, set[str]]:
    """What each module imports. Packages only offer names of their own modules: left out."""
    return {
        name: imported(path.read_text(), set(MODULES))
        for name, path in MODULES.items()
        if path.name != "__init__.py" or "class " in path.read_text()
    }


def test_no_circle_among_modules() -> None:
    TopologicalSorter(graph()).prepare()


def test_a_circle_would_be_found() -> None:
    sources = {"a": "def f():\n    from b import x", "b": "import a"}
    circle = {name: imported(source, set(sources)) for name, source in sources.items()}
    with pytest.raises(CycleError):
        TopologicalSorter(circle).prepare()


def reached(start: str) -> set[str]:
    """What a module imports, however indirectly."""
    arrows, found, left = graph(), set[str](), [start]
    while left:
        for name in arrows.get(left.pop(), set()) - found:
            found.add(name)
            left.append(name)
    return found


ROOMS = {
    # room: what nothing in it may need
    "helpers.checks": ("helpers.exercises", "helpers.authoring"),
    "helpers.exercises": ("helpers.authoring", "helpers.plots"),
    "helpers.plots": ("helpers.checks", "helpers.exercises", "helpers.authoring", "helpers.stack"),
    "helpers.brokers": ("helpers.stack", "helpers.checks", "helpers.authoring"),
    "helpers.fates": ("helpers.brokers", "helpers.lens", "helpers.stack"),
    "helpers.settle": ("helpers.brokers.redis", "helpers.lens", "helpers.stack"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_needs_only_what_it_may(room: str) -> None:
    inside = [name for name in MODULES if name == room or name.startswith(f"{room}.")]
    assert inside
    for name in inside:
        wrong = [other for other in reached(name) if other.startswith(ROOMS[room])]
        assert wrong == [], f"{name} needs {wrong}"


def test_every_file_is_short_enough_to_read() -> None:
    places = ("helpers", "tests", "notebooks", "site")
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for place in places
        for path in (ROOT / place).rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_each_broker_and_each_fault_is_tried() -> None:
    for path in (ROOT / "helpers" / "brokers").glob("[a-z]*.py"):
        assert (ROOT / "tests" / "brokers" / f"test_{path.name}").exists(), path.name
    tried = (ROOT / "tests" / "test_faults.py").read_text()
    faults = ast.parse((ROOT / "helpers" / "faults.py").read_text()).body
    names = [node.name for node in faults if isinstance(node, ast.FunctionDef)]
    assert [name for name in names if not name.startswith("_") and f"{name}(" not in tried] == []


def test_each_lab_is_whole() -> None:
    """Exercises, solution, page, answers and recorded runs: a lab without one is not checked."""
    places = ["labs/solutions/*.ipynb", "labs/*.ipynb", "helpers/exercises/lab_*.py"]
    places += ["tests/exercises/answers/lab_*.py", "tests/exercises/recorded/*.json.gz"]
    labs = [sorted(path.name[:6] for path in ROOT.glob(place)) for place in places]
    assert labs == [labs[0]] * len(places), "live_labs --record lab_NN keeps its recorded runs"


def test_the_folder_of_tests_holds_no_program() -> None:
    programs = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if any(
            isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            for node in ast.parse(path.read_text()).body
        )
    ]
    assert programs == []
