"""``lrpfast graph``: the channels of lower layers that a channel is made of."""

from __future__ import annotations

import argparse
import os

from ..batch.path_conflicts import check_no_overlap
from ..errors import InputError
from ..output import check_target
from . import options
from .signals import terminable

TEXT = """\
examples:
  lrpfast graph model.h5 x.npy --layer dense_1 --channel 3
  lrpfast graph model.h5 x.npy --layer dense_1 --channel 3 --sample 2 --target 1 --width 5 -o graph.graphml

In one sample, the channels of lower layers that this channel's relevance flows through; `lrpfast inspect` lists the
layers, and `lrpfast references` the samples that a channel stands for."""

#: Arguments that may name an input file.
_READ = ("model", "inputs", "target", "mask", "low", "high")


def run(arguments: argparse.Namespace) -> None:
    """Print the table, and write the graph."""
    path = arguments.output
    if path is not None:
        from ..engine.graph_files import check_suffix  # brings XML and CSV, which no other command needs

        check_suffix(path)
        check_target(path)
        if os.path.lexists(path) and not arguments.force:
            raise InputError(f"{path}: exists; overwrite=True replaces it")
    check_no_overlap({"output": path}, {name: getattr(arguments, name) for name in _READ})
    model = options.of_one_output(options.model_of(arguments), arguments, "an attribution graph")
    arguments.inputs = options.inputs_of(arguments.inputs, model)
    arguments.open_inputs = options.opener(model, arguments)
    with arguments.open_inputs() as data, terminable():
        samples, sample = data.shape[0], arguments.sample
        if samples is not None and not 0 <= sample < samples:
            raise InputError(f"--sample must be one of 0 to {samples - 1}, not {sample}")
        target = options.target_for(arguments.target, data)
        if getattr(target, "ndim", 0):
            target = target[sample : sample + 1]
        graph = options.analyzer(model, arguments, arguments.threads).attribution_graph(
            options.features_of(data, arguments.mask).read(sample, sample + 1),
            arguments.layer,
            arguments.channel,
            target=target,
            layers=arguments.layers,
            **({} if arguments.width is None else {"width": arguments.width}),
        )
    if not arguments.quiet:
        print(graph)
    if path is not None:
        graph.save(path)
        if not arguments.quiet:
            print(f"wrote {path}")
