"""Commands that work on single networks: measure, evaluate, upscale."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from ..analysis.export import load_exported
from ..proxies.complexity import complexity
from ..proxies.device import device_facts, find_device
from ..proxies.image_decoding import decode
from ..proxies.images import load_images
from ..proxies.latency import PROTOCOLS, Protocol, peak_memory_mb, refuse_small_images, time_together
from ..proxies.psnr import bicubic_baseline, evaluate
from ..proxies.writing import whole
from ..search.ntire import NTIRE_SCORES, with_scores
from ..spaces import NETWORKS, Design, InputError, build, inference_form, published, read_design, unknown
from ..spaces.systems.weights import load_published
from .recipe_checks import least_side
from .recipe_file import read_recipe
from .tables import number_table


def design_of(target: str) -> Design:
    """The design of a system's name, an architecture.json, or an exported folder."""
    if target in NETWORKS:
        return published(target)
    path = Path(target)
    if path.is_dir():
        path = path / "architecture.json"
    if not path.is_file():
        raise InputError(f"{target}: {unknown('system', target, NETWORKS)}, and no such file")
    return read_design(path)


def timing_protocol(protocol: str | None, recipe: str | None, size: int | None) -> Protocol:
    """The protocol of that name, on images of `size` where it is given, or the one of a recipe's latency part."""
    if recipe is not None:
        if protocol is not None or size is not None:
            raise InputError("--recipe says all about the timing: leave --protocol and --size out")
        return read_recipe(recipe).make_protocol()
    name = protocol or "steady"
    if name not in PROTOCOLS:
        raise InputError(unknown("protocol", name, PROTOCOLS))
    if size is None:
        return replace(PROTOCOLS[name], size=(256, 256)) if name == "steady" else PROTOCOLS[name]
    return replace(PROTOCOLS[name], size=(size, size))


def measure(
    targets: Sequence[str], device: str, reference: str, protocol: Protocol, counts_only: bool, console: Console
) -> None:
    """Counts the networks, and times them together with the reference."""
    designs, place = {target: design_of(target) for target in targets}, str(find_device(device))
    if not counts_only:
        designs[f"{reference} (reference)"] = design_of(reference)
        refuse_small_images({name: least_side(design) for name, design in designs.items()}, protocol)
    counts = {name: complexity(design) for name, design in designs.items()}
    table = number_table("network", "parameters", "MACs (G)", "FLOPs (G)", "activ. (M)", "convs", words=("network",))
    for name, c in counts.items():
        macs, flops, activations = f"{c.macs_g:.4f}", f"{c.flops_g:.4f}", f"{c.activations_m:.4f}"
        table.add_row(name, f"{c.parameters:,}", macs, flops, activations, str(c.convolutions))
    console.print(table)
    if counts_only:
        return
    networks: dict[str, nn.Module] = {
        name: inference_form(build(design, device=place)) for name, design in designs.items()
    }
    timings = time_together(networks, f"{reference} (reference)", protocol, place)
    memories = {name: peak_memory_mb(network, protocol, place) for name, network in networks.items()}
    scores = [year for year, score in NTIRE_SCORES.items() if score.baseline == reference]
    on_gpu = ["memory (MB)"] if None not in memories.values() else []
    of_years = [f"NTIRE {year}" for year in scores]
    columns = ("latency (ms)", f"x {reference}", "95 % interval", *on_gpu, *of_years)
    table = number_table("network", *columns, words=("network",))
    for name, t in timings.items():
        cells = [f"{t.latency_ms:.2f}", f"{t.ratio:.3f}", f"{t.ratio_low:.3f} to {t.ratio_high:.3f}"]
        cells += [f"{memories[name]:.1f}" for _ in on_gpu]
        known = {**counts[name].numbers(), "latency_ratio": t.ratio}
        cells += [f"{with_scores(known, {}, reference)[0][f'ntire_{year}']:.3f}" for year in scores]
        table.add_row(name, *cells)
    console.print(table)
    facts = device_facts(place)
    console.print(f"{protocol.label()}; {facts.get('gpu') or facts.get('cpu', '')}")


def network_to_use(model: Path | None, system: str | None, weights: Path | None) -> nn.Module:
    """The network of an exported folder, or a published one with its authors' weights."""
    if model is not None and system is None and weights is None:
        return load_exported(model)
    if model is None and system is not None and weights is not None:
        if system not in NETWORKS:
            raise InputError(unknown("system", system, NETWORKS))
        return inference_form(load_published(system, weights))
    raise InputError("name either an exported folder, or --system and --weights")


def evaluate_network(
    model: Path | None, system: str | None, weights: Path | None, data: str, border: str, device: str, console: Console
) -> None:
    """PSNR per image and in the mean, beside MATLAB bicubic."""
    network, place = network_to_use(model, system, weights), str(find_device(device))
    # A folder serves one purpose here; of what has validation images of its own, those.
    role = "validation" if data == "embedded" or (Path(data) / "DIV2K_valid_HR").is_dir() else "all"
    images = load_images(data, role, border=border)  # type: ignore[arg-type]  load_images names the wrong one
    for note in images.notes:
        console.print(note)
    result, bicubic = evaluate(network.to(place), images, device=place), bicubic_baseline(images)
    table = Table()
    for heading in ("image", "PSNR (dB)", "bicubic (dB)"):
        table.add_column(heading, justify="left" if heading == "image" else "right")
    for name, value in result.per_image_db.items():
        table.add_row(name, f"{value:.3f}", f"{bicubic.per_image_db[name]:.3f}")
    table.add_row("mean", f"{result.psnr_db:.3f}", f"{bicubic.psnr_db:.3f}", style="bold")
    console.print(table)
    console.print("RGB, rounded to 8 bits, 4 pixels cut on each side")


def upscale(model: Path, images: Sequence[Path], out: Path, device: str, console: Console) -> None:
    """Writes NAME_x4.png for each image; nothing is written if one of them is not an image."""
    network, place = load_exported(model), str(find_device(device))
    network.to(place)
    pixels = {path: torch.from_numpy(decode(path)[0]) for path in images}
    targets = [out / f"{path.stem}_x4.png" for path in images]
    if len(set(targets)) < len(targets):
        raise InputError("two of the images would get the same name; upscale them to different folders")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{out}: cannot be a folder for the images: {error.strerror}") from None
    for (path, lr), target in zip(pixels.items(), targets, strict=True):
        with torch.inference_mode():
            try:
                sr = network(lr[None].to(place) / 255)[0]
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        eight_bits = (sr.clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
        with whole(target) as temporary:
            Image.fromarray(np.ascontiguousarray(eight_bits)).save(temporary, format="PNG")
        console.print(f"{path} -> {target} ({sr.shape[2]}x{sr.shape[1]})", soft_wrap=True)
