"""Who may import whom (docs/design.md, section 4), and what a quick command does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for package in ("streamer", "models") for p in (ROOT / package).rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Top-level names of the packages a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_the_contracts_of_the_project_file_are_kept() -> None:
    """In a process of its own: the linter turns off every logger that it finds in its process."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("aiokafka", "streamer.log.kafka"),
        ("sounddevice", "streamer.feeds.microphone"),
        ("pydantic", "streamer.settings"),
        ("pydantic_settings", "streamer.settings"),
    ],
)
def test_an_untyped_edge_stops_where_it_is_let_in(library: str, allowed: str) -> None:
    importers = {module_of(path) for path in SOURCES if library in imported_by(path)}
    assert importers, f"nothing imports {library}: is the rule still needed?"
    assert {name for name in importers if not name.startswith(allowed)} == set()


def test_no_file_is_called_utils() -> None:
    assert [p for p in SOURCES if p.stem.strip("_") in ("util", "utils", "helpers", "misc", "common")] == []


@pytest.mark.parametrize(
    "command",
    [["--help"], ["run", "--help"], ["transcribe", "--help"], ["tail", "--help"], ["topics", "--print"], ["check"]],
    ids=" ".join,
)
def test_a_command_that_steps_no_model_does_not_load_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom streamer.cli.main import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit(3 if 'torch' in sys.modules else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
