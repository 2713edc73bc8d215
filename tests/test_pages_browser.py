"""The other pages, and the report of a search by rungs, in a real browser without a network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import watched
from recorded import made
from test_report_rungs import climbers

from paretosr.analysis.challenge.page import write_systems_page
from paretosr.analysis.challenge.tables import compare as compared_system
from paretosr.analysis.report import write_report
from paretosr.analysis.simulation import Arm, Box, compare
from paretosr.analysis.simulation_page import write_simulation_page
from paretosr.search.simulator import Whole

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[test]'")
pytestmark = [pytest.mark.slow, pytest.mark.browser]

HOSTILE = "</script><script>document.title='taken'</script>"


def test_the_simulation_page_draws_its_curves_in_both_themes(browser: Any, tmp_path: Path) -> None:
    recording = made(count=30)
    names = list(recording.networks)
    few = tuple(tuple(Whole(270 * (n + 1), 0.0, names[seed + n]) for n in range(3)) for seed in range(4))
    more = tuple((*trace, Whole(4 * 270, 0.0, names[-1])) for trace in few)
    arms = [Arm("evolution, full training", few), Arm("evolution, halving", more, "evolution, full training")]
    lines, curves = compare(arms, Box(recording, ("psnr_db", "latency_ratio")), 4 * 270)
    hostile = replace(recording, facts={**recording.facts, "machine": {"cpu": HOSTILE}})
    write_simulation_page(lines, curves, hostile, "4 seeds", 4, tmp_path / "page.html")
    with watched(browser, tmp_path / "page.html", "#shares .scatterlayer") as page:
        assert page.locator("#shares .scatterlayer .trace").count() == 2
        assert page.locator("#lines tbody tr").count() == 2
        assert page.title() == "Simulated searches – ParetoSR"
        assert HOSTILE in page.locator(".lead").inner_text()
        tick = page.locator("#shares .xtick text").first
        sync_api.expect(tick).to_have_css("fill", "rgb(27, 34, 48)")
        page.emulate_media(color_scheme="dark")
        sync_api.expect(tick).to_have_css("fill", "rgb(230, 233, 238)")


def test_the_systems_page_sorts(browser: Any, tmp_path: Path) -> None:
    write_systems_page([compared_system(name) for name in ("imdn", "rfdn", "pan")], None, tmp_path / "page.html")
    with watched(browser, tmp_path / "page.html", "#systems tbody tr") as page:
        page.locator("#systems thead th button").nth(0).click()
        first = page.locator("#systems tbody tr > :first-child").all_inner_texts()
        page.locator("#systems thead th button").nth(0).click()
        assert page.locator("#systems tbody tr > :first-child").all_inner_texts() == first[::-1]


def test_the_report_draws_the_rungs(browser: Any, tmp_path: Path) -> None:
    write_report(climbers(), tmp_path / "report.html")
    with watched(browser, tmp_path / "report.html", "#rungs .scatterlayer") as page:
        assert page.locator("#rungs .scatterlayer .trace").count() == 4
        assert page.locator("tr.paused").count() == 2
