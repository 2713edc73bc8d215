"""The set-up script: what it asks of the machine, when it calls pip, and what an interrupted install leaves behind.

A small shell script stands in for Python and pip, so nothing is installed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) exit ${TOO_OLD:-0} ;;
--version) echo "Python 3.x" ;;
*ensurepip*) exit ${NO_VENV:-0} ;;
"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip --version") ;;
*--dry-run*) echo "https://files/torch-2.13.0${BUILD-+cpu}-cp311-manylinux_x86_64.whl" ;;
*download_info*) cat ;;
"-m pip install"*)
    echo "$*" >>pip_calls
    [ -z "${PIP_FAILS:-}" ] || { echo "ERROR: no such package"; exit 1; }
    echo "Installing collected packages: torch"
    [ -z "${PIP_DIES:-}" ] || kill -9 $PPID
    ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Machine:
    """A clone of what the script reads, and a PATH on which every Python is the fake one."""

    def __init__(self, folder: Path):
        self.clone, self.path = folder / "clone", folder / "path"
        (self.clone / ".ci").mkdir(parents=True)
        self.path.mkdir()
        for name in (".ci/setup", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, self.clone / name)
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            self.command(name, FAKE_PYTHON)
        self.free_mb(100_000)

    def command(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def free_mb(self, free_mb: int) -> None:
        self.command("df", f"#!/bin/sh\necho Filesystem\necho none 0 0 {free_mb * 1024} 0% /\n")

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"PATH": f"{self.path}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **environment}
        command = ["sh", str(self.clone / ".ci" / "setup"), *arguments]
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)

    def pip_calls(self) -> list[str]:
        """What pip was asked to install since the last question."""
        record = self.clone / "pip_calls"
        calls = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_pip_runs_once_and_again_only_for_changed_files(machine):
    assert machine.setup().returncode == 0
    first = machine.pip_calls()
    assert all("--constraint constraints.txt" in call for call in first)
    assert first[-1].endswith("--editable .")
    again = machine.setup()
    assert (again.stdout, again.stderr, machine.pip_calls()) == ("", "", [])
    for name in ("constraints.txt", "pyproject.toml"):
        with (machine.clone / name).open("a") as file:
            file.write("# changed\n")
        assert machine.setup().returncode == 0
        assert machine.pip_calls() == first
        machine.setup()
        assert machine.pip_calls() == []


def test_only_the_tests_bring_their_tools(machine):
    machine.setup()
    assert not [call for call in machine.pip_calls() if "[test]" in call]
    machine.setup("test")
    assert machine.pip_calls()[-1].endswith("--editable .[test]")
    machine.setup("test")
    machine.setup()
    assert machine.pip_calls() == []


def test_a_failed_install_is_told_and_tried_again(machine):
    failed = machine.setup(PIP_FAILS="1")
    assert failed.returncode == 1
    assert "ERROR: no such package" in failed.stderr
    assert "pip did not finish" in failed.stderr
    machine.pip_calls()
    assert machine.setup().returncode == 0
    assert machine.pip_calls()


def test_a_venv_left_half_written_is_made_anew(machine):
    machine.setup(PIP_DIES="1")
    machine.pip_calls()
    mended = machine.setup()
    assert "creating .venv" in mended.stdout
    assert machine.pip_calls()
    assert "creating .venv" not in machine.setup("test").stdout


def test_an_old_python_is_named(machine):
    refused = machine.setup(TOO_OLD="1")
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed, found: python3 (Python 3.x)" in refused.stderr
    assert "apt-get install python3 python3-venv" in refused.stderr
    assert not (machine.clone / ".venv").exists()


def test_a_python_of_ones_own_is_taken_or_refused_by_name(machine, tmp_path):
    mine = tmp_path / "my python"
    refused = machine.setup(PYTHON=str(mine))
    assert refused.returncode == 1
    assert str(mine) in refused.stderr
    shutil.copy(machine.path / "python3", mine)
    taken = machine.setup(PYTHON=str(mine))
    assert taken.returncode == 0
    assert str(mine) in taken.stdout


def test_a_python_without_venv_is_told_what_to_install(machine):
    refused = machine.setup(NO_VENV="1")
    assert refused.returncode == 1
    assert "sudo apt-get install python3-venv" in refused.stderr
    assert not (machine.clone / ".venv").exists()


def test_too_little_disk_is_told_before_anything_is_written(machine):
    machine.free_mb(900)
    refused = machine.setup()
    assert refused.returncode == 1
    assert "needs 2500 MB more" in refused.stderr
    assert "900 MB are free" in refused.stderr
    assert not (machine.clone / ".venv").exists()


def test_the_cuda_build_wants_more_room_and_is_announced_without_a_gpu(machine):
    machine.command("nvidia-smi", "#!/bin/sh\n")
    machine.free_mb(4000)
    assert "9000 MB" in machine.setup(BUILD="").stderr
    machine.free_mb(40_000)
    assert "CUDA" not in machine.setup(BUILD="").stdout
    (machine.path / "nvidia-smi").unlink()
    if shutil.which("nvidia-smi", path="/usr/bin:/bin") is None:
        assert "no NVIDIA GPU is seen here" in machine.setup("test", BUILD="").stdout


def test_a_moved_folder_is_installed_again(machine, tmp_path):
    machine.setup()
    machine.pip_calls()
    machine.clone = machine.clone.rename(tmp_path / "moved clone")
    assert machine.setup().returncode == 0
    assert machine.pip_calls()
