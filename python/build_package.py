"""The build of the package: maturin's, after the command `rigl` has been laid into it.

The command is built from the repository around this folder; `RIGL_COMMAND` may name one that is built already. A source distribution
holds the extension's sources alone, so a wheel made from one has no command.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import maturin
from maturin import (  # noqa: F401  the hooks that stay maturin's
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

HERE = Path(__file__).resolve().parent
MANIFEST = HERE.parent / "crates" / "trainer" / "Cargo.toml"


def lay_in_command():
    target = HERE / "rigl" / "_bin"
    built = os.environ.get("RIGL_COMMAND")
    if built is None:
        if not MANIFEST.is_file():
            print("no command `rigl` in this wheel: its sources are not here")
            shutil.rmtree(target, ignore_errors=True)
            return
        command = ["cargo", "build", "--release", "--locked", "--manifest-path", str(MANIFEST), "--bin", "rigl"]
        lines = subprocess.run(
            [*command, "--message-format", "json"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        messages = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        built = next(message["executable"] for message in messages if message.get("executable"))
    elif not (os.path.isabs(built) and os.path.isfile(built)):
        raise SystemExit(f"RIGL_COMMAND is {built!r}; it must be the absolute path of the command `rigl`")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copy2(built, target / ("rigl.exe" if os.name == "nt" else "rigl"))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    lay_in_command()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    lay_in_command()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


if __name__ == "__main__":
    lay_in_command()
