"""The command `paretosr systems`: the published networks beside Table 1 of the challenge, counted and timed."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..analysis.challenge.page import write_systems_page
from ..analysis.challenge.rows import write_systems_csv
from ..analysis.challenge.tables import COUNTS, LABELS, Comparison, compare
from ..analysis.challenge.timings import REFERENCE, Measured, Session, correlation_columns, measure_systems
from ..proxies.device import device_facts, find_device
from ..proxies.latency import PROTOCOLS, Protocol
from ..proxies.writing import is_full_disk
from ..spaces import SYSTEMS, InputError, unknown
from ..spaces.systems import NTIRE_BASELINES
from .tables import number_table, print_fitting

CPU_SIZE, GPU_SIZE = 64, 256  # LR pixels a side: at 256 a CPU thread would take hours for all networks
SHORT = {"params_m": "params M", "flops_g": "FLOPs G", "activations_m": "activ. M", "convs": "convs"}
TITLE = "runtime with"
MARKS = """\
exact: all counts that Table 1 gives come out in the printed digits. reading: a structure proposed here that fits the \
report's text; its largest deviation follows. placeholder: the report says too little. *: reported by the team, not \
checked. Counts are of one 3x256x256 input, in the inference form; in brackets the convolutions as modules."""


def systems(
    names: Sequence[str],
    measure: bool,
    protocol: str | None,
    device: str | None,
    size: int | None,
    csv: Path | None,
    html: Path | None,
    console: Console,
) -> None:
    """Shows the named networks (or all) beside Table 1; with `measure` times them; writes the files asked for."""
    for name in names:
        if name in NTIRE_BASELINES:
            raise InputError(f"'{name}' is a baseline of NTIRE and no row here: `paretosr measure {name}` counts it")
        if name not in SYSTEMS:
            raise InputError(unknown("system", name, SYSTEMS))
    how = _protocol(measure, protocol, device, size)
    _refuse_unwritable(csv, html)
    comparisons = [compare(name) for name in dict.fromkeys(names or SYSTEMS)]
    print_fitting(_wide(comparisons), _compact(comparisons), console)
    console.print(MARKS)
    session, stop = _measured(comparisons, *how, console) if how else (None, None)
    if session:
        console.print(_timings(comparisons, session))
    console.print("\nSpearman's rank correlation with runtime, and its 95 % bootstrap interval:")
    print_fitting(_correlations(comparisons, session, " "), _correlations(comparisons, session, "\n"), console)
    _write(csv, lambda path: write_systems_csv(comparisons, session, path), console)
    _write(html, lambda path: write_systems_page(comparisons, session, path), console)
    if stop:
        console.print("stopped: the networks that were not reached have no time")
        raise stop


def _protocol(measure: bool, protocol: str | None, device: str | None, size: int | None) -> tuple[Protocol, str] | None:
    """How and where to time, None where nothing is to be timed."""
    if not measure:
        if protocol is not None or device is not None or size is not None:
            raise InputError("--protocol, --device and --size say how to time: they need --measure")
        return None
    protocol = protocol or "steady"
    if protocol not in PROTOCOLS:
        raise InputError(unknown("protocol", protocol, PROTOCOLS))
    place = find_device(device or "auto")
    how = PROTOCOLS[protocol]
    if size is None and place.type != "cpu" and protocol != "steady":
        return how, str(place)  # the challenges' protocols have a size of their own
    side = size or (CPU_SIZE if place.type == "cpu" else GPU_SIZE)
    return replace(how, size=(side, side)), str(place)


def _measured(
    comparisons: Sequence[Comparison], protocol: Protocol, place: str, console: Console
) -> tuple[Session, SystemExit | None]:
    """Times all networks that can be built, with a bar meanwhile; what was timed before a signal, and the signal."""
    names = [comparison.name for comparison in comparisons if comparison.counts]
    facts = device_facts(place)
    machine = facts.get("gpu") or facts.get("cpu") or place
    timings = measure_systems(names, protocol, place)
    console.print(f"\nTiming {len(names)} networks beside {REFERENCE} on {machine}: {protocol.label()}")
    if place == "cpu" and protocol.size == (CPU_SIZE, CPU_SIZE):
        console.print("On a CPU the size is 64 for time's sake, on a GPU 256; --size says otherwise.")
    measured: dict[str, Measured] = {}
    session = Session(measured, protocol, machine)
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("timing", total=len(names))
        try:
            for name, result in timings:
                measured[name] = result
                bars.update(task, advance=1, description=f"timed {name}")
        except SystemExit as stop:  # what a signal becomes
            return session, stop
    return session, None


def _headings() -> list[str]:
    return [f"{label} ({unit})" if unit else label for label, unit in COUNTS.values()]


def _wide(comparisons: Sequence[Comparison]) -> Table:
    """One line a network: each count, then Table 1's."""
    pairs = [heading for column in _headings() for heading in (column, "Table 1")]
    table = number_table("system", *pairs, "mark", "basis", words=("system", "mark", "basis"))
    for c in comparisons:
        cells = [text for column in COUNTS for text in (c.count_text(column), c.table_text(column))]
        table.add_row(c.name, *cells, c.mark_text(), c.system.basis)
    return table


def _compact(comparisons: Sequence[Comparison]) -> Table:
    """Two lines a network: our counts, and below them Table 1's."""
    table = number_table("system", *SHORT.values(), "mark", words=("system", "mark"))
    for c in comparisons:
        mark, _, deviation = c.mark_text().partition(", ")
        table.add_row(c.name, *(c.count_text(column) for column in COUNTS), mark)
        table.add_row(
            f"  {c.row.team}" if c.row else "  not in Table 1",
            *(c.table_text(column) for column in COUNTS),
            deviation or ("" if c.system.basis == c.mark else f"basis: {c.system.basis}"),
            style="dim",
        )
    return table


def _timings(comparisons: Sequence[Comparison], session: Session) -> Table:
    """The timed networks, the quickest first."""
    with_memory = any(result.memory_mb is not None for result in session.measured.values())
    headings = ["latency (ms)", f"x {REFERENCE}", "95 % interval", *(["memory (MB)"] if with_memory else [])]
    table = number_table("system", *headings, "Table 1 (s)", "", words=("system", ""))
    timed = [c for c in comparisons if c.name in session.measured]
    for c in sorted(timed, key=lambda c: session.ratio(c.name) or float("inf")):
        result, table_s = session.measured[c.name], c.table_text("runtime_s")
        t, latency_ms = result.timing, session.latency_ms(c.name)
        cells = [f"{latency_ms:.2f}", f"{t.ratio:.3f}", f"{t.ratio_low:.3f} to {t.ratio_high:.3f}"] if t else ["–"] * 3
        if with_memory:
            cells.append("–" if result.memory_mb is None else f"{result.memory_mb:.0f}")
        table.add_row(c.name, *cells, table_s, result.failure or ("wide" if t and t.wide else ""))
    return table


def _correlations(comparisons: Sequence[Comparison], session: Session | None, between: str) -> Table:
    """Table 2 made from Table 1, and beside it what was measured here; `between` stands before each interval."""
    columns = correlation_columns(comparisons, session)
    most = {name: max(each.rows for each in found.values()) for name, found in columns.items()}
    table = number_table(TITLE, *(f"{name}\n{rows} rows" for name, rows in most.items()), words=(TITLE,))
    for column in dict.fromkeys(column for found in columns.values() for column in found):
        cells = []
        for name, found in columns.items():
            each = found.get(column)
            fewer = f" ({each.rows})" if each and each.rho is not None and each.rows < most[name] else ""
            cells.append(f"{each.text(between)}{fewer}" if each else "")
        table.add_row(LABELS[column], *cells)
    return table


def _refuse_unwritable(*paths: Path | None) -> None:
    """Raises where a file could not be written in the end, before minutes are spent on what goes into it."""
    given = [path for path in paths if path is not None]
    if len(given) == 2 and given[0].resolve() == given[1].resolve():
        raise InputError(f"{given[0]}: --csv and --html name the same file")
    for path in given:
        with _writing(path):
            if path.is_dir():
                raise InputError(f"{path}: is a folder; name a file to write")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass


def _write(path: Path | None, write: Callable[[Path], None], console: Console) -> None:
    if path is not None:
        with _writing(path):
            write(path)
        console.print(f"wrote {path}", soft_wrap=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what is wrong with a path into an InputError; a full disk is another matter."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
