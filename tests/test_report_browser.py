"""The report in a real browser without a network: no errors, and hover, menu, table and colours work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import watched
from pruned import KEPT, PATH, child, run

from paretosr.analysis.pareto import TRACES, front_figure
from paretosr.analysis.report import write_report
from paretosr.analysis.summary import RunSummary
from paretosr.search.candidate import Candidate
from paretosr.spaces import BLOCKS, Architecture, Block, Design

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[test]'")
pytestmark = [pytest.mark.slow, pytest.mark.browser]

HOSTILE = "</script><script>document.title='taken'</script><b onmouseover=alert(1)>"
COSTS = {0: (27.10, 0.21, 9.5), 1: (27.15, 0.22, 14.0), 2: (27.41, 0.46, 30.0), 3: (27.00, 0.45, 131.0)}


def summary() -> RunSummary:
    """Six candidates; 0, 1 and 2 are the front, 2 was chosen, 4 broke a limit and has no PSNR, 5 failed."""
    candidates = [
        Candidate(
            number,
            Design(Architecture(16 + 4 * number, (Block(sorted(BLOCKS)[number]),))),
            "complete",
            numbers={"psnr_db": psnr_db, "latency_ratio": ratio, "activations_m": activations_m},
            intervals={"latency_ratio": (0.98 * ratio, 1.02 * ratio), "psnr_db": (psnr_db - 0.02, psnr_db + 0.02)},
            curve=tuple((step, 1 / step) for step in range(10, 200, 10)),
            tied_with={0: (1,), 1: (0,)}.get(number, ()),
        )
        for number, (psnr_db, ratio, activations_m) in COSTS.items()
    ]
    too_slow = {"latency_ratio": 0.7, "activations_m": 90.0}
    design = candidates[0].design
    return RunSummary(
        name=f"demo {HOSTILE}",
        candidates=(
            *candidates,
            Candidate(4, design, "pruned", numbers=too_slow, reason="latency_ratio <= 0.5"),
            Candidate(5, design, "failed", reason=HOSTILE, origin=HOSTILE),
        ),
        objectives=("psnr_db", "latency_ratio", "activations_m"),
        front=(0, 1, 2),
        winner=2,
        reference={"name": "imdn", "numbers": {"latency_ratio": 1.0, "activations_m": 154.14}},
        bicubic_psnr_db=26.58,
        hypervolume=((1, 0.1), (2, 0.2), (4, 0.25)),
        machine={"cores": "2", "cpu": HOSTILE},
    )


def pruned() -> RunSummary:
    """Two pruned networks with several children each, and of the second three controls, the last without a cut."""
    cut: list[Candidate] = []
    for parent in (0, 1):
        for strategy in ("inner", "group", "free"):
            for budget in (0.8, 0.5):
                more = {"budget": {"latency_ratio": budget}, "parent": parent}
                cut.append(child(3 + len(cut), strategy, 27.0 + 0.01 * len(cut), budget, **more))
    short = [*PATH[:2], {"stage": "recovered", "psnr_db": 26.9}]
    cut.append(child(3 + len(cut), "group", 26.9, control="scratch"))
    cut.append(child(3 + len(cut), "uniform", 26.9, control="uniform", path=short, kept=KEPT[:1]))
    cut.append(child(3 + len(cut), "group", 27.5, 1.0, control="uncut", kept=[]))
    return run(*cut)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(summary(), path)
    return path


@pytest.fixture(scope="module")
def pruned_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pruned") / "report.html"
    write_report(pruned(), path)
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, opened offline; fails afterwards if the page complained or asked for anything but itself."""
    with watched(browser, report) as opened:
        yield opened


@pytest.fixture
def pruned_page(browser: Any, pruned_report: Path) -> Iterator[Any]:
    """The report of a run with pruned children, opened and watched in the same way."""
    with watched(browser, pruned_report) as opened:
        opened.wait_for_selector("#path .scatterlayer")
        yield opened


def drawn(page: Any) -> dict[str, Any]:
    """The traces of the front by name, as the page has drawn them."""
    traces = page.evaluate("JSON.parse(JSON.stringify(document.getElementById('front').data))")
    return dict(zip(TRACES, traces, strict=True))


def at_marker(page: Any, trace: str, point: int) -> tuple[float, float]:
    """Where a marker of the front is in the window."""
    return page.evaluate(
        """([trace, point]) => {
            const plot = document.getElementById("front");
            plot.scrollIntoView({ block: "center", behavior: "instant" });
            const { x, y } = plot.data[trace];
            const { xaxis, yaxis } = plot._fullLayout;
            const box = plot.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(x[point]), box.top + yaxis._offset + yaxis.d2p(y[point])];
        }""",
        [TRACES.index(trace), point],
    )


def column(page: Any, number: int) -> list[str]:
    """The texts of a column of the table without their small print, from top to bottom."""
    return page.evaluate(
        "n => [...document.querySelectorAll(`#candidates tbody tr > :nth-child(${n})`)]"
        ".map(cell => cell.firstElementChild?.tagName === 'A' ? cell.firstElementChild.textContent.trim()"
        " : cell.firstChild.textContent.trim())",
        number,
    )


def test_all_figures_are_drawn_and_nothing_was_taken_over(page: Any) -> None:
    for name in ("front", "hypervolume", "curves"):
        assert page.locator(f"#{name} .scatterlayer .trace").count() > 0, name
    assert page.title() == f"demo {HOSTILE} – ParetoSR"
    assert page.locator("h1").inner_text().startswith("Candidate 2: 27.41 dB, 0.46x the latency of imdn")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_pointing_at_a_marker_shows_the_network_and_its_numbers(page: Any) -> None:
    page.mouse.move(*at_marker(page, "winner", 0))
    page.wait_for_selector("#front .hoverlayer .hovertext")
    text = page.locator("#front .hoverlayer").text_content()
    for part in ("Candidate 2", "chosen", summary().candidates[2].design.summary(), "27.41", "0.460", "0.451", "30.0"):
        assert part in text


def test_the_menus_show_every_pair_as_python_draws_it(page: Any) -> None:
    names = page.locator("#axis-x option").evaluate_all("options => options.map(option => option.value)")
    assert names == ["psnr_db", "latency_ratio", "activations_m"]
    for x in names:
        for y in (name for name in names if name != x):
            page.select_option("#axis-x", x)
            page.select_option("#axis-y", y)
            # Choosing the other axis' number swaps the two, so the first choice may have moved.
            page.select_option("#axis-x", x)
            wanted = json.loads(str(front_figure(summary(), x, y).to_json()))
            shown = page.evaluate("JSON.parse(JSON.stringify(document.getElementById('front').layout))")
            assert shown["xaxis"]["title"]["text"] == wanted["layout"]["xaxis"]["title"]["text"]
            assert [s["x0"] for s in shown["shapes"]] == [s["x0"] for s in wanted["layout"]["shapes"]]
            for name, trace in zip(TRACES, wanted["data"], strict=True):
                got = drawn(page)[name]
                assert (got["x"], got["y"]) == (trace["x"], trace["y"]), (x, y, name)
                for key in ("text", "textposition", "line", "error_x"):
                    assert got.get(key) == trace.get(key), (x, y, name, key)


def test_choosing_the_number_of_the_other_axis_swaps_them(page: Any) -> None:
    assert (page.input_value("#axis-x"), page.input_value("#axis-y")) == ("latency_ratio", "psnr_db")
    page.select_option("#axis-x", "psnr_db")
    assert (page.input_value("#axis-x"), page.input_value("#axis-y")) == ("psnr_db", "latency_ratio")


def test_zoom_to_the_candidates_leaves_far_baselines_out(page: Any) -> None:
    reach = "document.getElementById('front')._fullLayout.xaxis.range[1]"
    assert page.evaluate(reach) > 1.0
    page.check("#near")
    assert 0.46 < page.evaluate(reach) < 0.6
    page.uncheck("#near")
    assert page.evaluate(reach) > 1.0


def test_the_table_sorts_by_number_with_missing_values_last(page: Any) -> None:
    assert column(page, 1)[:3] == ["2", "1", "0"]  # the chosen one, then the front by PSNR
    heading = page.locator("#candidates thead th").nth(4)
    assert "Activations" in heading.inner_text()
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 5) == ["9.50", "14.0", "30.0", "90.0", "131", "–"]
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, 5) == ["131", "90.0", "30.0", "14.0", "9.50", "–"]


def test_a_first_click_puts_the_better_end_on_top(page: Any) -> None:
    heading = page.locator("#candidates thead th").nth(2)
    assert "PSNR" in heading.inner_text()
    heading.locator("button").click()
    assert column(page, 3) == ["27.41", "27.15", "27.10", "27.00", "–", "–"]
    assert page.locator("#candidates thead [aria-sort=descending]").count() == 1


def test_rows_and_markers_find_each_other(page: Any) -> None:
    page.locator("#candidate-1 td").first.hover()
    assert drawn(page)["selection"]["x"] == [0.22]
    page.locator("#candidate-5 td").first.hover()
    assert drawn(page)["selection"]["x"] == []
    page.locator("#candidate-0 a").focus()
    assert drawn(page)["selection"]["x"] == [0.21]
    page.mouse.click(*at_marker(page, "dominated", 0))
    page.wait_for_selector("#candidate-3.selected")


def test_dark_paper_changes_the_figures_too(page: Any) -> None:
    tick = page.locator("#front .xtick text").first
    sync_api.expect(tick).to_have_css("fill", "rgb(27, 34, 48)")
    page.emulate_media(color_scheme="dark")
    sync_api.expect(tick).to_have_css("fill", "rgb(230, 233, 238)")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"


def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def data(page: Any, place: str) -> list[dict[str, Any]]:
    """The traces of a figure as the page has drawn them."""
    return page.evaluate("place => JSON.parse(JSON.stringify(document.getElementById(place).data))", place)


def test_the_pruning_section_draws_and_its_menus_change_it(pruned_page: Any) -> None:
    page, (uniform, uncut) = pruned_page, (str(c.number) for c in pruned().candidates[-2:])
    for place, layer in (("ladder", "scatterlayer"), ("path", "scatterlayer"), ("widths", "barlayer")):
        assert page.locator(f"#{place} .{layer} .trace").count() > 0, place
    assert data(page, "ladder")[0]["name"] == "0, unpruned"
    page.select_option("#ladder-parent", "1")
    assert data(page, "ladder")[0]["name"] == "1, unpruned"
    assert (len(data(page, "path")[0]["y"]), len(data(page, "widths")[0]["y"])) == (4, 3)
    page.select_option("#pruned-child", uniform)
    assert (len(data(page, "path")[0]["y"]), len(data(page, "widths")[0]["y"])) == (3, 1)
    page.locator(f"#pruned tr[data-number='{uncut}'] td").nth(1).click()
    assert page.input_value("#pruned-child") == uncut
    assert page.locator("#widths-none").is_visible()
    assert not page.locator("#widths").is_visible()
    page.select_option("#pruned-child", uniform)
    assert page.locator("#widths .barlayer .point").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_pruning_table_sorts_and_its_figures_follow_the_paper(pruned_page: Any) -> None:
    pruned_page.locator("#pruned thead th button").nth(7).click()
    best = str(pruned().candidates[-1].number)
    assert pruned_page.locator("#pruned tbody tr th a").first.inner_text() == best
    pruned_page.emulate_media(color_scheme="dark")
    for place in ("ladder", "path", "widths"):
        sync_api.expect(pruned_page.locator(f"#{place} .ytick text").first).to_have_css("fill", "rgb(230, 233, 238)")


def test_arrows_follow_to_other_axes(pruned_page: Any) -> None:
    heads = f"#front .scatterlayer .trace:nth-child({TRACES.index('arrows') + 1}) .points path"
    shapes = "paths => paths.map(path => path.getAttribute('d')).filter(d => d !== 'M0,0Z')"  # none at the parents
    before = pruned_page.locator(heads).evaluate_all(shapes)
    assert len(before) == sum(c.kind == "pruned" for c in pruned().candidates)
    pruned_page.select_option("#axis-x", "activations_m")
    wanted = json.loads(str(front_figure(pruned(), "activations_m", "psnr_db").to_json()))["data"]
    got, arrows = drawn(pruned_page)["arrows"], wanted[TRACES.index("arrows")]
    assert [got[key] for key in ("x", "y", "marker")] == [arrows[key] for key in ("x", "y", "marker")]
    after = pruned_page.locator(heads).evaluate_all(shapes)
    assert len(after) == len(before)
    assert after != before  # the heads have turned
