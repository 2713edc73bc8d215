"""Measures what the cluster's engine costs: works that sleep one second, on 1, 8 and 32 slots of one machine.

`python benchmarks/ray_engine.py --csv FILE` starts Ray for each number of slots (so many CPUs as it shall count, which
a sleep does not need), lets every worker start and sleep once, and then times a few rounds. Efficiency is the time
slept over the time that all slots had; the engine is asked for a task as a search does it, one submitted for each that
ends. It takes 3 minutes and 8 GB of memory, for each worker has imported torch.
"""

import argparse
import csv
import os
import sys
import time
from pathlib import Path

from sleep_work import Sleep

from paretosr.proxies.device import device_facts
from paretosr.proxies.work import Data
from paretosr.runs.engines.cluster import cluster
from paretosr.search.engine import Engine, Task

SLOTS = (1, 8, 32)
COLUMNS = ("slots", "tasks", "wall_s", "efficiency", "driver_cpu_ms_per_task")


def run(engine: Engine, tasks: int, seconds: float) -> int:
    """Keeps all slots busy until so many tasks are done; how many workers did them."""
    begun = done = 0
    pids = set()
    while done < tasks:
        while begun < tasks and begun - done < engine.slots:
            engine.submit(Task(f"sleep {begun}", Sleep(seconds)))
            begun += 1
        finished = engine.next(600)
        if finished is None or finished.failure:
            raise SystemExit(f"a task did not end well: {finished}")
        pids.add((finished.numbers or {})["pid"])
        done += 1
    return len(pids)


def measure(slots: int, rounds: int) -> dict[str, float]:
    """A row of the table."""
    with cluster("local", cpus=slots) as place:
        place.check(Path.cwd(), Data(), "cpu", None, timed=False)
        with place.engine("cpu", None, 1.0, None, lambda: False) as engine:
            while run(engine, slots, 1.0 + slots) < slots:
                pass  # workers still start, which takes the few real cores much longer
            tasks = slots * rounds
            began, cpu = time.perf_counter(), time.process_time()
            run(engine, tasks, 1.0)
            wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    values = (slots, tasks, round(wall_s, 3), round(tasks / (slots * wall_s), 4), round(1000 * cpu_s / tasks, 2))
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    """Measures and prints; writes the CSV file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="*", default=SLOTS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # for the workers, which import `sleep_work`
    rows = []
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
    for slots in options.slots:
        rows.append(measure(slots, options.rounds))
        sys.stdout.write(f"| {' | '.join(f'{value:g}' for value in rows[-1].values())} |\n")
        sys.stdout.flush()
    facts = device_facts("cpu")
    sys.stdout.write("".join(f"{name}: {facts.get(name, '')}\n" for name in ("cpu", "cores", "load_1_minute")))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
