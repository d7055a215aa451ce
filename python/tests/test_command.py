"""The command in the package; no PyTorch is needed."""

import os
import subprocess
import sys

import pytest
import rigl
from rigl import command

try:
    command.program()
except FileNotFoundError as missing:
    if os.environ.get("RIGL_REQUIRE_COMMAND"):
        raise
    pytest.skip(str(missing), allow_module_level=True)


def test_the_command_is_the_packages():
    assert command.run("--version").split() == ["rigl", rigl.__version__]
    called = [sys.executable, "-c", "import sys; from rigl.command import main; sys.exit(main())", "bench", "nothing"]
    done = subprocess.run(called, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing" in done.stderr
    with pytest.raises(command.CommandError, match="nowhere"):
        command.run("eval", "nowhere")
