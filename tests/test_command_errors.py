"""Whatever goes wrong in a command is one line and a code, never a traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from tokenizers import Tokenizer

from sharpness.cli.options import Probe
from sharpness.cli.probe import check_out
from sharpness.config import RunConfig
from sharpness.config.spec import parse_spec
from sharpness.data.texts import load_text
from sharpness.data.user_data import DataRequest
from sharpness.errors import InputError, RunError, Terminated, run_command
from sharpness.machine.panics import contained_panics
from sharpness.machine.users_code import users_own
from sharpness.runs import RunFolder
from tests.conftest import run_cold_python

PANICKING = (
    '{"version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}'
)
MODEL = ', "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"}}'


def panic() -> None:
    Tokenizer.from_str(PANICKING + MODEL)


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def recursing() -> None:
    recursing()


ENDS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "bad input": (raising(InputError("expected one, got two: take one")), 2, "error: expected one, got two: take one"),
    "several lines": (raising(InputError("expected\none")), 2, "error: expected one"),
    "failed run": (raising(RunError("it diverged")), 1, "error: it diverged"),
    "no such file": (lambda: open("/nowhere/x").close(), 2, "error: /nowhere/x: No such file"),
    "a name too long": (lambda: open("/" + "x" * 300).close(), 2, "File name too long"),
    "a full disk": (raising(OSError(errno.ENOSPC, "No space left on device")), 1, "error: No space left on device"),
    "bytes that are no text": (lambda: print(b"\xff".decode()), 2, "UTF-8"),
    "a key": (raising(KeyError("of")), 1, "got KeyError: 'of' (test_command_errors.py:"),
    "a type": (raising(TypeError("int + str")), 1, "got TypeError: int + str"),
    "a parser": (raising(SafetensorError("header")), 1, "got SafetensorError: header"),
    "a panic": (panic, 1, "got PanicException: Precompiled"),
    "memory": (lambda: bytearray(1 << 60), 1, "expected enough memory"),
    "memory of torch": (raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")), 1, "enough memory"),
    "no stack": (recursing, 2, "expected data of few levels"),
    "SIGTERM": (raising(Terminated("saved")), 143, "error: saved"),
    "Ctrl-C": (raising(KeyboardInterrupt()), 130, "error: stopped"),
}


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_command_raises_is_one_line_and_a_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, code, words = ENDS[name]
    with pytest.raises(SystemExit) as caught:
        run_command(command)
    printed = capsys.readouterr().err
    assert caught.value.code == code and words in printed
    assert printed.startswith("error: ") and printed.count("\n") == 1 and len(printed) < 600


def test_what_a_command_means_to_return_is_left_alone() -> None:
    run_command(lambda: None)
    with pytest.raises(SystemExit) as caught:
        run_command(raising(SystemExit(7)))
    assert caught.value.code == 7


def test_standard_output_that_takes_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as caught:
            run_command(lambda: print("a number"))
        full.flush()  # as the interpreter does at its end
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_a_reader_that_leaves_early_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE, text=True) as gone:
        gone.wait()
        monkeypatch.setattr(sys, "stdout", gone.stdin)
        with pytest.raises(SystemExit) as caught:
            run_command(lambda: print("a number"))
    assert caught.value.code == 1
    assert "closed before the end" in capsys.readouterr().err


CLOSED = """
import os, sys
os.close(int(sys.argv[1]))
code = "from sharpness.cli import main; main()"
os.execv(sys.executable, [sys.executable, "-c", code, "train", "a.toml", "--out", "b"])
"""


@pytest.mark.parametrize("number", ["1", "2"])
def test_nothing_is_done_where_standard_output_or_error_is_closed(number: str) -> None:
    result = run_cold_python("-c", CLOSED, number)
    assert result.returncode == 2
    assert (result.stdout + result.stderr).startswith("error: expected open standard output and error")


def test_a_panic_is_contained(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="the parser panicked: Precompiled"), contained_panics():
        panic()
    assert not capfd.readouterr().err

    def warn_and_fail() -> None:
        print("a warning", file=sys.stderr)
        raise ValueError("other")

    with pytest.raises(ValueError, match="other"), contained_panics():
        warn_and_fail()
    assert capfd.readouterr().err == "a warning\n"
    with pytest.raises(InputError, match="got PanicException"), users_own("mine:make"):
        panic()


TOKENIZERS = {
    "charsmap": '"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}',
    "chunks": '"pre_tokenizer": {"type": "FixedLength", "length": 0}',
    "merges": '"decoder": null',
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_panics_is_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = MODEL
    if name == "merges":
        model = ', "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}'
        model = model.replace('"merges"', '"continuing_subword_prefix": "####", "merges"')
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "added_tokens": [], ' + TOKENIZERS[name] + model)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "text.txt").write_text("a b a b a a")
    spec = parse_spec(f"text:{tmp_path / 'text.txt'},tokenizer={tmp_path}", ["text"])
    with pytest.raises(InputError, match="panicked") as caught:
        load_text(spec, DataRequest(spec.text, 2))
    assert "\n" not in str(caught.value) and "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"start": Path("a.pt")},
        {"trained_on": "npz:a.npz"},
        {"strict": False},
        {"seed": 1},
        {"batch_size": 10},
        {"norm": "frozen"},
    ],
)
def test_what_a_study_does_not_compare_is_not_written_into_its_run(options: dict[str, Any], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", RunConfig())
    check_out(Probe(checkpoint=run.path, examples=100))
    check_out(Probe(checkpoint=run.path, out=tmp_path / "own", **options))
    with pytest.raises(InputError, match=f"expected --out DIR with --(no-)?{next(iter(options)).replace('_', '-')}"):
        check_out(Probe(checkpoint=run.path, **options))
