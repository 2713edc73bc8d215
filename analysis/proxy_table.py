"""The rank table and the predictors' validation as CSV files."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..proxies.writing import write_text
from .proxy_ranks import Predicted, Rank


def write_ranks_csv(found: Sequence[Rank], path: Path) -> None:
    """Writes one row a number: its rank correlation with PSNR, and that given the costs, with 95 % intervals."""
    rows = [
        {
            "number": rank.name,
            "control": rank.control,
            "rho": rank.plain.rho,
            "rho_low": rank.plain.low,
            "rho_high": rank.plain.high,
            "partial_rho": rank.partial.rho,
            "partial_rho_low": rank.partial.low,
            "partial_rho_high": rank.partial.high,
            "networks": rank.plain.rows,
        }
        for rank in found
    ]
    write_text(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.4f"))


def write_predictors_csv(found: Sequence[Predicted], path: Path) -> None:
    """Writes one row a predictor: mean and standard deviation over the folds of each measure."""
    rows = []
    for row in found:
        said = row.validation.summary()
        measures = {f"{name}{end}": pair[at] for name, pair in said.items() for at, end in enumerate(("", "_sd"))}
        rows.append({"target": row.target, "features": row.features, "model": row.validation.model, **measures})
    write_text(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.4f"))
