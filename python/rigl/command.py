"""The command ``rigl``, which comes with the package.

::

    python -c "from rigl import command; command.run('train', '--epochs', '1', '--out', 'runs/1')"
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).parent / "_bin" / ("rigl.exe" if os.name == "nt" else "rigl")


class CommandError(RuntimeError):
    """The command has failed; the message is its own."""


def program() -> Path:
    """Where the command is."""
    if not _PROGRAM.is_file():
        raise FileNotFoundError(
            f"this build of the package does not include the command `rigl` ({_PROGRAM} does not exist); "
            "run `pip install ./python` in a clone of the repository to get it"
        )
    return _PROGRAM


def run(*arguments: Any) -> str:
    """Runs ``rigl`` with these arguments, and returns what it prints on standard output. Its warnings go to standard error at the end.

    Raises:
        CommandError: with what it prints on standard error, if it fails.
    """
    command = [str(program()), *map(str, arguments)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    )
    try:
        output, said = child.communicate()
    except KeyboardInterrupt:
        # The command has had the signal too, and needs the time to save its run.
        child.communicate()
        raise
    if child.returncode:
        raise CommandError(said.strip() or f"{' '.join(command)} ended with {child.returncode}")
    sys.stderr.write(said)
    return output


def main() -> int:
    """What ``rigl`` on the command line calls."""
    try:
        path = program()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if os.name == "nt":
        return subprocess.run([str(path), *sys.argv[1:]]).returncode
    os.execv(path, [str(path), *sys.argv[1:]])
