"""Every kernel against the float64 oracle, through the public API, with the tests' own cases and tolerances."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpu_inputs import casts, inputs_of_every_type, masks_and_ranges, targets
from gpu_layers import by_cudnn, dense_layers, larger_layers, small_layers
from gpu_lines import Options, Step
from gpu_networks import activations, chained_layers, conditions, networks, recurrent
from gpu_tally import tallied
from lrpfast.kernels.cuda import modules, tiles

#: Modules that are used only where a switch says so; gpu_experiments.py launches them.
UNUSED = ("trial_tile", "wgmma_tile", "many_k")


def steps(options: Options) -> Iterator[Step]:
    """All groups, the smallest first."""
    yield from small_layers(options)
    yield from dense_layers(options)
    yield from larger_layers(options)
    yield from by_cudnn(options)
    yield from chained_layers(options)
    yield from networks(options)
    yield "casts, every type", casts
    for what, work in (
        ("activations", activations),
        ("conditions", conditions),
        ("recurrent layers", recurrent),
        ("inputs of every type", inputs_of_every_type),
        ("targets", targets),
        ("masks, ranges, wrong inputs", masks_and_ranges),
    ):
        yield tallied(what, lambda tallies, work=work: work(options, tallies))


# Which kernels there are.


def every_kernel() -> set[tuple[str, str, str]]:
    """(module, kind, name) of all kernels, as the sources have them."""
    found = {
        ("tile", kind, tile.kernel)
        for kind, all_tiles in tiles.TILES.items()
        for tile in all_tiles
        if tile.module == "tile"
    }
    for module in modules.MODULES:
        if module in modules.TILE_MODULES or module in UNUSED:
            continue
        text = re.sub(r"//[^\n]*|\\\n", "", modules.source(module))
        text = re.sub(r"^#define.*$", "", text, flags=re.M)
        names = set(re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', text))
        for macro, prefix in (("LIGHT", "light_"), ("CAST", "cast_")):
            made = re.findall(rf"^{macro}\((\w+)(?:, [\w ]+)?\)", text, re.M)
            names |= {prefix + name for name in made}
        found |= {(module, kind, name) for kind in ("float32", "float64") for name in names if name != f"cast_{kind}"}
    return found
