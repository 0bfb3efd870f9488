"""Installs the pinned torch in the build that this machine can use; says which, and why.

    python .ci/install_torch.py      by the interpreter that torch is for

Where there is an NVIDIA driver, uv picks the build for it. Where there is none, a build without
CUDA saves gigabytes: the one that pip finds by itself (on macOS, or in a mirror), else the one that
uv knows of. Where neither can be had, the plain pin installs whatever the package index has.
"""

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements-torch.lock"
PIP = [sys.executable, "-m", "pip"]


def driver() -> str:
    """The version of the NVIDIA driver, "" where there is none that answers."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return (answer.stdout.split() or [""])[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def offered(version: str) -> bool:
    """Whether pip, as it is configured here, finds a CPU build of this very version."""
    listed = subprocess.run([*PIP, "index", "versions", "torch"], capture_output=True, text=True)
    return f"{version}+cpu" in re.split(r"[\s,]+", listed.stdout)


def by_uv(pin: str, backend: str) -> bool:
    """Have uv install the build for a backend; whether it could."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        return False
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, pin]
    return subprocess.run([*command, f"--torch-backend={backend}"]).returncode == 0


def say(text: str) -> None:
    print(f"torch: {text}", flush=True)


def main() -> int:
    (pin,) = (line for line in LOCK.read_text().splitlines() if line and line[0] != "#")
    version = pin.removeprefix("torch==")
    try:
        present = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        present = ""
    if present.partition("+")[0] == version:
        say(f"{present} is here already")
        return 0
    found = driver()
    if found:
        say(f"the build for the NVIDIA driver {found}, chosen by uv")
        if by_uv(pin, "auto"):
            return 0
        say("uv could not get it; the package index's own build")
    elif platform.system() != "Linux":
        say(f"the package index's build, which has no CUDA on {platform.system()}")
    elif offered(version):
        say("the CPU build that pip finds: there is no NVIDIA driver")
    else:
        say("the CPU build, by uv: there is no NVIDIA driver")
        if by_uv(pin, "cpu"):
            return 0
        say("uv could not get it; the package index's own build, which may bring CUDA (gigabytes)")
    return subprocess.run([*PIP, "install", "--quiet", pin]).returncode


if __name__ == "__main__":
    sys.exit(main())
