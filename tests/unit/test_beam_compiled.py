"""Compiling: the machine code is kept where it can be, and nothing but the beam decoder needs the compiler."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

SOURCE = """
from models.speech.compiled import compiled, inlined, types

@inlined
def twice(number: int) -> int:
    return number + number

@compiled(types.int64(types.int64))
def four_times(number: int) -> int:
    return twice(twice(number))
"""


def four_times(folder: Path) -> Callable[[int], int]:
    """The compiled function of a module in `folder`, which is made on first sight and imported anew each time."""
    source = folder / "four.py"
    if not source.exists():
        source.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("four", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[[int], int] = module.four_times
    return made


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place to keep machine code but beside the source, also where no folder is closed to the user, as to root."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "__pycache__").glob("four.four_times-*.nb[ci]"))


def test_machine_code_is_kept_beside_the_source(tmp_path: Path) -> None:
    assert four_times(tmp_path)(3) == 12
    assert [path.suffix for path in kept(tmp_path)] == [".nbc", ".nbi"]
    assert four_times(tmp_path)(5) == 20


def test_where_nothing_can_be_written_machine_code_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").write_text("a file where the folder should be")
    assert four_times(tmp_path)(3) == 12


@pytest.mark.parametrize("content", [b"", b"no machine code", b"\x80\x04"])
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_machine_code_is_made_anew(tmp_path: Path, which: int, content: bytes) -> None:
    four_times(tmp_path)
    kept(tmp_path)[which].write_bytes(content)
    assert four_times(tmp_path)(3) == 12


def run(code: str) -> str:
    """What a new Python prints whose warnings are errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_decoders_does_not_import_the_compiler() -> None:
    assert run("import sys, models.speech.decoder, models.speech.load; print('numba' in sys.modules)") == "False"


def test_without_the_compiler_the_beam_decoder_says_what_to_do_and_the_greedy_one_works() -> None:
    code = """
import sys
sys.modules["numba"] = None
from models import bundle
from models.contract import ModelError
from models.speech.load import load_decoder
packaged = bundle.load("speech-en")
print(type(load_decoder(packaged, "greedy")).__name__)
try:
    load_decoder(packaged)
except ModelError as error:
    print(error)
"""
    greedy, reason = run(code).splitlines()
    assert greedy == "GreedyDecoder"
    assert reason == "the beam decoder needs numba: pip install numba; or use decoder kind: greedy"
