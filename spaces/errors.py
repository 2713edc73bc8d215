"""The one error a user can mend, and the sentence that names what was meant."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something in the user's input is wrong; the message is one line that says what, where, and what would be right.

    The command line prints the message and exits with code 2.
    """


def unknown(what: str, given: object, known: Iterable[str]) -> str:
    """Says that `given` is not among the `known` names, and which one was probably meant.

    >>> unknown("block", "imbd", ["imdb", "rfdb"])
    "no block 'imbd'; did you mean 'imdb'? (known: imdb, rfdb)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given).lower(), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    listed = f"known: {', '.join(names)}"
    return f"no {what} '{given}'{hint} ({listed})" if near else f"no {what} '{given}'{hint} {listed}"
