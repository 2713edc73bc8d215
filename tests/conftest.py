"""What every test gets: one torch thread, published data, Chromium, PostgreSQL, and no silent skips where asked."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

# Read by OpenMP when torch loads, and by every process that a test starts: two threads collapse on a shared machine.
os.environ["OMP_NUM_THREADS"] = "1"
# Read by joblib: a simulated search of a test takes less time than a process to begin.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"
# Read by the command line's console when it is made, which keeps to it; the fixture `paretosr` says how wide it is.
os.environ.pop("COLUMNS", None)

import lives
import torch
from commands import NETWORK, RECIPE, Command, Outcome
from postgres import PASSWORD, Server, programs
from safetensors.torch import save_file

from paretosr.proxies.work import Data, _images
from paretosr.runs import cli
from paretosr.spaces import build

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]
MARKED_BY_FIXTURE = {"shared": "shared", "chromium": "browser", "postgresql": "postgresql"}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published weights and golden images: $PARETOSR_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("PARETOSR_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no published data: {folder} is not a folder (PARETOSR_SHARED names another)")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The system's Chromium, for tests of the report in a real browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium: install Debian's package chromium, as .ci/run does")
    return Path(found)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server, whose password stands in PGPASSWORD."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL: install Debian's package postgresql, as .ci/run does")
    server = Server(found)
    os.environ["PGPASSWORD"] = PASSWORD
    yield server
    del os.environ["PGPASSWORD"]
    server.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for published data, the browser or a server carries the marker of it."""
    for item in items:
        for fixture, marker in MARKED_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With PARETOSR_NO_SKIP set, a skipped test of these is a failed one."""
    report = yield
    must_run = os.environ.get("PARETOSR_NO_SKIP") and any(map(item.get_closest_marker, MARKED_BY_FIXTURE.values()))
    if must_run and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although PARETOSR_NO_SKIP is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small photos, made of waves; decoded ones are cached beside it, for worker processes too."""
    folder = tmp_path_factory.mktemp("photos")
    os.environ["PARETOSR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    y, x = np.mgrid[0:64, 0:72]
    for number in range(4):
        waves = [127 + 70 * np.sin(x / (5 + number + c)) + 50 * np.cos(y / (4 + c)) for c in range(3)]
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def handlers() -> Iterator[None]:
    """`main` takes SIGINT and SIGTERM over; pytest gets them back. No test sees the images of the one before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _images.cache_clear()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def paretosr(
    handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs `paretosr WORDS` in this process, in a folder of its own; exports write no ONNX."""

    def no_onnx(network: torch.nn.Module, path: Path) -> float:
        path.write_bytes(b"")
        return 0.0

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["paretosr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Outcome(ended.value.code, said.out, said.err)

    monkeypatch.setattr("paretosr.analysis.export.export_onnx", no_onnx)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def recipe(tmp_path: Path, photos: Path) -> Path:
    """The file of a recipe that works, beside its photos."""
    shutil.copytree(photos, tmp_path / "photos")
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What is needed of an exported network."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "architecture.json").write_text(json.dumps(NETWORK.to_json()))
    save_file(build(NETWORK).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Three photos, of which one is held out; decoded ones are cached beside them."""
    folder = tmp_path_factory.mktemp("photos")
    lives.photos(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Data(str(folder), patch=8)


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Any]:
    """Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[test]'")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(chromium))
        yield started
        started.close()
