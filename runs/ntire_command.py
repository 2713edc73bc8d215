"""`paretosr export --ntire`: a network as the one file, and its weights, that the NTIRE challenge takes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from ..analysis.export import load_exported
from ..analysis.one_file import write_ntire
from ..proxies.weights import with_weights
from ..proxies.writing import is_full_disk
from ..spaces import InputError, build, deployed, published, read_design
from ..spaces.systems.weights import load_published
from .inspection import asked_for, read_run

NAME = "ParetoSR"  # of a network that has none


def export_ntire(
    source: Path | None,
    numbers: Sequence[int],
    front: bool,
    system: str | None,
    weights: Path | None,
    team: int,
    name: str | None,
    out: Path | None,
    console: Console,
) -> None:
    """Writes both files for each candidate asked for, for an exported network, or for a published one."""
    folder = out or Path("out") / "ntire"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder to write to")
    if source is None and system is not None:
        network = load_published(system, weights) if weights else build(published(system), seed=0)
        networks = [(system, published(system).summary(), network)]
        if weights is None:
            console.print(f"{system} gets random weights: its authors' are given by --weights")
    elif source is not None and system is None and weights is None:
        networks = list(_of_folder(source, numbers, front))
    else:
        raise InputError("name either a run or an exported folder, or --system (and --weights)")
    if name is not None and len(networks) > 1:
        raise InputError(f"--name names one network, and {len(networks)} are asked for")
    for own, summary, network in networks:
        said = name or own
        try:
            difference = write_ntire(network, folder, team, said, summary)
        except OSError as error:
            if is_full_disk(error):
                raise
            raise InputError(f"{folder}: cannot be written to: {error.strerror or error}") from None
        file = folder / "models" / f"team{team:02}_{said}.py"
        console.print(f"exported {file}, weights in {folder / 'model_zoo'}", soft_wrap=True)
        console.print(f"loaded by a Python with torch alone, it is within {difference:.1e} of the network")


def _of_folder(source: Path, numbers: Sequence[int], front: bool) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, summary and network of what a folder holds: an exported network, or a run's candidates."""
    if (source / "architecture.json").is_file():
        if numbers or front:
            raise InputError(f"{source}: is one exported network: --candidate and --front are for runs")
        yield NAME, read_design(source / "architecture.json").summary(), load_exported(source)
        return
    folder, recipe, record = read_run(source)
    for candidate in asked_for(folder, recipe, record, numbers, front):
        network = with_weights(candidate.design, folder.candidate(candidate.number) / "model.safetensors")
        yield f"{NAME}{candidate.number}", candidate.summary, deployed(candidate.design, network)
