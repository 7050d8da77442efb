"""``lrpfast references``: for every channel of a layer, the samples that count most."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .. import plot
from ..batch.path_conflicts import check_no_overlap
from ..errors import InputError
from ..plot.file import check_path
from . import options
from .signals import terminable

TEXT = """\
examples:
  lrpfast references model.h5 x.npy --layer dense -o references.npz --plot references.png
  lrpfast references model.h5 x.npy --layer dense --by activation --of max -k 9
  lrpfast references model.h5 x.npy --layer dense --target classes.npy --group-by classes.npy -o r.nc

For every channel of the layer, the samples in which it contributes most to the target, or is most active; `lrpfast
inspect` lists the layers. The picture shows where in each sample this channel found what it contributes."""

#: Arguments that may name an input file.
_READ = ("model", "inputs", "target", "y-ref", "group-by", "mask", "low", "high")


def run(arguments: argparse.Namespace) -> None:
    """Print the table, write the references, and draw them."""
    if arguments.plot is not None:
        check_path(arguments.plot)
    if arguments.plot is None and (arguments.channels is not None or arguments.columns is not None):
        raise InputError("--channels and --columns are of the picture: give --plot FILE")
    model = options.model_of(arguments)
    arguments.inputs = options.inputs_of(arguments.inputs, model)
    if arguments.plot is not None and (len(model.inputs) > 1 or arguments.mask is not None):
        raise InputError("--plot is for models of one input, without --mask")
    read = {name: getattr(arguments, name.replace("-", "_")) for name in _READ}
    check_no_overlap({"output": arguments.output, "plot": arguments.plot}, read)
    arguments.open_inputs = options.opener(model, arguments)
    arguments.several = len(model.inputs) > 1
    analyzer = options.analyzer(model, arguments, arguments.threads)
    with arguments.open_inputs() as data, terminable():
        target = options.target_for(arguments.target, data)
        found = analyzer.references(
            data,
            arguments.layer,
            arguments.k,
            by=arguments.by,
            of=arguments.of,
            out=arguments.output,
            target=target,
            normalize=arguments.normalize,
            group_by=arguments.group_by,
            mask=arguments.mask,
            batch_size=arguments.batch_size,
            progress=not arguments.quiet,
            resume=not arguments.restart,
            overwrite=arguments.force,
        )
        if not arguments.quiet:
            print(found)
        if arguments.plot is not None:
            plot.save(_figure(arguments, analyzer, found, data, target), arguments.plot)
    written = [path for path in (arguments.output, arguments.plot) if path is not None]
    if written and not arguments.quiet:
        print(f"wrote {'; '.join(written)}")


def _figure(arguments: argparse.Namespace, analyzer: Any, found: Any, data: Any, target: Any) -> Any:
    """The picture; of groups, the first."""
    title = f"{os.path.basename(arguments.model)}, {arguments.layer}: largest {arguments.of} of {arguments.by}"
    size = {} if arguments.columns is None else {"samples": arguments.columns}
    group = None
    if found.groups is not None:
        group = found.groups[0]
        title += f", group {group}"
        print(f"lrpfast: the picture is of the first group, {group}", file=sys.stderr)
    return plot.references(found, analyzer, data, arguments.channels, group=group, target=target, title=title, **size)
