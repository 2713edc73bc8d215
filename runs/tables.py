"""Tables for a terminal, in the form that it has room for."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def print_fitting(wide: Table, narrow: Table, console: Console) -> None:
    """Prints the first of the two tables if the terminal has room for it."""
    needed = console.measure(wide, options=console.options.update(max_width=1000)).maximum
    console.print(wide if needed <= console.width else narrow)


def number_table(*headings: str, words: Sequence[str] = ()) -> Table:
    """An empty table, its columns of numbers to the right; `words` are the headings of the others."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        is_text = heading in words
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    return table
