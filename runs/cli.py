"""The command `paretosr`: each reads its arguments, calls the floor that does the work, and shows the outcome."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..analysis.export import ExportFailed
from ..proxies.writing import is_full_disk
from ..search.engine import RunFailed
from ..search.loop import Exhausted
from ..spaces import InputError
from . import (
    dashboard_command,
    inspection,
    network_commands,
    ntire_command,
    proxies_command,
    pruning_command,
    recorder,
    recording_story,
    simulation_command,
    story,
    systems_command,
    training_story,
)
from .folder import RunFolder
from .recipe_file import read_recipe, recipe_names, recipe_schema

app = typer.Typer(
    help="Finds, trains and exports efficient x4 super-resolution networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(markup=False, highlight=False)  # a path or a reason may hold brackets

Out = Annotated[Path | None, typer.Option("--out", help="The folder to write; default out/NAME.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: --set search.candidates=50 (repeatable).")
]
Run = Annotated[Path, typer.Argument(help="The folder of a run.")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", help="Work on a Ray cluster: auto (the one that runs here), local, HOST:PORT of its head."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Keep a new run's record in this database: postgresql+psycopg://USER@HOST/DATABASE. The password comes "
        "from PGPASSWORD or ~/.pgpass.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")]


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (`paretosr recipes`).")],
    out: Out = None,
    set_: Set = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew; an earlier run is moved aside.")] = False,
    ray: Ray = None,
    storage: Storage = None,
) -> None:
    """Search for networks as a recipe says; on the folder of an earlier run, go on with it."""
    story.search(recipe, out, set_ or [], fresh=fresh, console=console, ray=ray, storage=storage)


@app.command()
def train(
    target: Annotated[str, typer.Argument(help="The folder of a run, or a recipe that names a network.")],
    candidate: Annotated[int | None, typer.Option(help="Which candidate of the run; default its winner.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The recipe whose training to use, e.g. full.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train with so many seeds.")] = 1,
    out: Out = None,
    set_: Set = None,
    ray: Ray = None,
    storage: Storage = None,
) -> None:
    """Train one network longer: a candidate of a run (recorded as its child), or the network of a recipe."""
    if Path(target).is_dir():
        RunFolder(Path(target)).refuse_other_storage(storage)
        training_story.train_candidate(Path(target), candidate, recipe, set_ or [], seeds, console, ray)
    else:
        training_story.train_network(target, out, set_ or [], seeds, console, ray, storage)


@app.command()
def prune(
    target: Annotated[str, typer.Argument(help="The folder of a run, or a recipe with a network and `pruning`.")],
    candidate: Annotated[
        list[int] | None, typer.Option(help="Which candidate of the run (repeatable); default its front.")
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="A published network; the run trains it first (repeatable).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="The recipe whose `pruning` to use; default the run's.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Cut by this plan.json; for one candidate or system.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Cut by masks that nni has saved; likewise.")] = None,
    out: Out = None,
    set_: Set = None,
    ray: Ray = None,
    storage: Storage = None,
) -> None:
    """Cut trained networks: members of a run's front, or the one network of a recipe, which is trained first."""
    if Path(target).is_dir():
        RunFolder(Path(target)).refuse_other_storage(storage)
        asked = pruning_command.Asked(tuple(candidate or ()), tuple(system or ()), recipe, plan, masks)
        pruning_command.prune_run(Path(target), asked, set_ or [], console, ray)
    elif candidate or system or recipe or plan or masks:
        raise InputError(f"{target}: is not the folder of a run; --candidate, --system, --recipe, --plan need one")
    else:
        pruning_command.prune_network(target, out, set_ or [], console, ray, storage)


@app.command()
def report(run: Run) -> None:
    """Write report.html and candidates.csv of a run anew."""
    inspection.report(run, console)


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run; with --ntire also of an export.")] = None,
    candidate: Annotated[
        list[int] | None, typer.Option(help="Which candidate (repeatable); default the winner.")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="Every member of the front.")] = False,
    ntire: Annotated[
        int | None, typer.Option(help="As NTIRE takes it, one Python file and weights: your team's number.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="With --ntire: the network's name.")] = None,
    system: Annotated[str | None, typer.Option(help="With --ntire: a published network in place of a run.")] = None,
    weights: Annotated[Path | None, typer.Option(help="With --system: its authors' .pth file.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to; default RUN/exported, or out/ntire.")] = None,
) -> None:
    """Export trained networks: architecture, weights, ONNX, a training recipe, a card; or one file for NTIRE."""
    numbers = candidate or []
    if ntire is not None:
        ntire_command.export_ntire(run, numbers, front, system, weights, ntire, name, out, console)
    elif run is None or (name, system, weights) != (None, None, None):
        raise InputError("name the folder of a run; --name, --system and --weights go with --ntire")
    else:
        inspection.export(run, numbers, front, out, console)


@app.command()
def status(run: Run, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show what a run is doing, also while it is."""
    inspection.status(run, as_json, console)


@app.command()
def dashboard(
    run: Run,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
) -> None:
    """Open optuna-dashboard on a copy of a run's record, also while it is driven."""
    dashboard_command.dashboard(run, host, port, console)


@app.command()
def measure(
    networks: Annotated[list[str], typer.Argument(help="System names, architecture.json files, exported folders.")],
    device: Device = "auto",
    reference: Annotated[str, typer.Option(help="The network to compare with.")] = "imdn",
    protocol: Annotated[str | None, typer.Option(help="How to time: steady (the default), aim2020, ntire.")] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="LR pixels a side; default 256, of the challenges' images 339x510.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Time as this recipe's latency part says.")] = None,
    counts_only: Annotated[bool, typer.Option("--counts-only", help="Do not time.")] = False,
) -> None:
    """Count networks at 3x256x256 and time them on this device, interleaved with the reference."""
    how = network_commands.timing_protocol(protocol, recipe, size)
    network_commands.measure(networks, device, reference, how, counts_only, console)


@app.command()
def systems(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; default all.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time them too, each beside imdn.")] = False,
    protocol: Annotated[str | None, typer.Option(help="How to time; default steady.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto (the default).")] = None,
    size: Annotated[int | None, typer.Option(min=8, help="LR pixels a side; default 256, on a CPU 64.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV file to write.")] = None,
    html: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
) -> None:
    """Count the published networks beside Table 1 of the AIM 2020 challenge, and time them."""
    systems_command.systems(names or [], measure, protocol, device, size, csv, html, console)


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="A folder of HR images, a DIV2K tree, or 'embedded'.")],
    model: Annotated[Path | None, typer.Argument(help="An exported folder.")] = None,
    system: Annotated[str | None, typer.Option(help="A published network, with --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The authors' .pth file.")] = None,
    border: Annotated[str, typer.Option(help="How LR images are made at the border: symmetric or edge.")] = "symmetric",
    device: Device = "auto",
) -> None:
    """Measure PSNR of a network on images (RGB, uint8, 4 pixels cut), beside MATLAB bicubic."""
    network_commands.evaluate_network(model, system, weights, data, border, device, console)


@app.command()
def upscale(
    model: Annotated[Path, typer.Argument(help="An exported folder.")],
    images: Annotated[list[Path], typer.Argument(help="Images to make four times as large.")],
    out: Annotated[Path, typer.Option("--out", help="Where the PNG files go.")] = Path("upscaled"),
    device: Device = "auto",
) -> None:
    """Make images four times as large with an exported network."""
    network_commands.upscale(model, images, out, device, console)


@app.command()
def record(
    recipe: Annotated[str, typer.Argument(help="A recipe with a space and `search.halving`.")],
    networks: Annotated[int, typer.Option(min=1, help="Record so many networks, or all that the space holds.")] = 400,
    repeated: Annotated[int, typer.Option(min=0, help="Train so many of them with further seeds.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of these, in all.")] = 3,
    earlier: Annotated[
        Path | None, typer.Option("--from", help="A recording by the same recipe, whose trainings are taken over.")
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time them when they are trained.")] = True,
    out: Out = None,
    set_: Set = None,
) -> None:
    """Train and time many networks of a space, rung by rung, to replay them in simulated time."""
    wanted = recorder.Wanted(networks, repeated, seeds)
    recording_story.record(recipe, out, set_ or [], wanted, earlier, time=time, console=console)


@app.command()
def proxies(
    source: Annotated[Path, typer.Argument(help="The folder of a run, or a recording.")],
    score: Annotated[list[str] | None, typer.Option(help="Only these scores (repeatable); default all.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")] = None,
    predict: Annotated[bool, typer.Option("--predict/--no-predict", help="Cross-validate the predictors too.")] = True,
    out: Out = None,
) -> None:
    """Say how well zero-cost scores, counts and early PSNR order trained networks; cross-validate predictors."""
    proxies_command.run(source, score, workers, predict, out, console)


@app.command()
def simulate(
    recording: Annotated[Path, typer.Argument(help="A folder that `paretosr record` made.")],
    sampler: Annotated[
        list[str] | None, typer.Option(help="Compare these (repeatable); default evolution, tpe, nsga2, random.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Searches with each.")] = 20,
    trainings: Annotated[int, typer.Option(min=1, help="The budget of a search, in whole trainings.")] = 50,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 8,
    out: Out = None,
    set_: Set = None,
) -> None:
    """Compare samplers, and halving with full training, on a recording, in simulated time."""
    names = sampler or simulation_command.DEFAULT
    simulation_command.run(recording, names, seeds, trainings, workers, set_ or [], out, console)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    widest = max(map(len, recipe_names()))
    for name in recipe_names():
        console.print(f"{name:<{widest}} {read_recipe(name).description}", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    sys.stdout.write(json.dumps(recipe_schema(), indent=2) + "\n")


@app.command()
def doctor() -> None:
    """Say what this machine has and lacks for ParetoSR; exit code 1 where something is missing."""
    raise typer.Exit(inspection.doctor(console))


def main() -> None:
    """The entry point: errors a user can mend are one line and exit code 2, the rest is 1, signals 130 and 143."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch's first parallel region: one thread is the rule here
    for number in (signal.SIGINT, signal.SIGTERM):  # `search` and `train` have their own way with them
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        app()
        code = 0
    except InputError as error:
        code = _say(str(error), 2)
    except Exhausted as error:
        code = _say(str(error), error.exit_code)
    except (RunFailed, ExportFailed) as error:
        code = _say(str(error), 1)
    except story.Stopped as stop:
        code = _say("stopped; the same command goes on from here", stop.exit_code)
    except Exception as error:
        if not is_full_disk(error):
            raise
        code = _say(f"the disk is full: free some space{_where(error)}, then run the same command to go on", 1)
    sys.exit(code)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"paretosr: {message}\n")
    return code


def _where(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f" where {name} lies" if name else ""


if __name__ == "__main__":
    main()
