"""Transformers beside LXT: one thread, one process, results compared before times.

``python bench/lxt_peer.py`` prints docs/performance.md's table; it needs PyTorch, torchvision, zennit, and
``pip install lxt==2.1 transformers==4.52.4``. Readings are processor time of the process, which other work on the
machine disturbs least, and tools take turns. LXT patches PyTorch for the whole process, so the forward pass is read
before.
``--memory CASE TOOL`` prints one tool's peak memory, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402

import lrpfast  # noqa: E402

#: The median over samples of the largest difference of relevance, as a part of the sample's largest: LXT adds 1e-10 to
#: 1e-6 to denominators. A single sample may be further off in either tool, where rounding decides a sign under gamma.
TOLERANCE = 1e-4


@dataclass
class Case:
    """A model with its inputs, lrpfast's rule and how LXT computes the same."""

    title: str
    target: float  # the most of LXT's time
    rule: str
    module: Any
    inputs: list[Any]
    forward: Callable[[], Any]
    lxt: Callable[[], np.ndarray]
    patch: Callable[[], None]
    reduce: Callable[[Any], np.ndarray]


def vit(gamma: bool, device: str = "cpu", small: bool = False) -> Case:
    import torch
    from torchvision.models import vision_transformer

    torch.manual_seed(0)
    tiny = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    make = partial(vision_transformer.VisionTransformer, **tiny) if small else vision_transformer.vit_b_16
    module = make(num_classes=1000).eval()
    torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    batch, size = (2, 32) if small else (8, 224)
    x = torch.randn(batch, 3, size, size).to(device)
    module = module.to(device)

    def patch() -> None:
        from lxt.efficient import monkey_patch, monkey_patch_zennit

        monkey_patch(vision_transformer)
        monkey_patch_zennit()

    def lxt() -> np.ndarray:
        from zennit.composites import LayerMapComposite
        from zennit.rules import Gamma

        rules = [(torch.nn.Conv2d, Gamma(0.25)), (torch.nn.Linear, Gamma(0.05))] if gamma else []
        composite = LayerMapComposite(rules)
        composite.register(module)
        try:
            leaf = x.clone().requires_grad_(True)
            module(leaf)[:, 3].sum().backward()
            return (leaf.grad * leaf).detach().cpu().numpy()
        finally:
            composite.remove()

    title = f"ViT-B/16, batch {batch}, {'γ' if gamma else 'ε'} and CP-LRP"
    forward = partial(module, x)
    return Case(
        title, 1 / 3 if gamma else 0.9, "lxt_vit" if gamma else "cp_lrp", module, [x], forward, lxt, patch, np.asarray
    )


def bert(device: str = "cpu", small: bool = False) -> Case:
    import torch
    from transformers import BertConfig
    from transformers.models.bert import modeling_bert

    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(attn_implementation="eager", num_labels=2, **(tiny if small else {}))
    model = modeling_bert.BertForSequenceClassification(config).eval().to(device)
    shape = (2, 8) if small else (8, 128)
    ids = torch.randint(1, config.vocab_size, shape).to(device)
    mask = torch.ones(shape, dtype=torch.long, device=device)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).logits

    module = Logits()
    state: dict[str, Any] = {}

    def patch() -> None:
        from lxt.efficient import monkey_patch

        monkey_patch(modeling_bert)
        patched = modeling_bert.BertForSequenceClassification(config).eval().to(device)  # of the patched classes
        patched.load_state_dict(model.state_dict())
        state["model"] = patched

    def lxt() -> np.ndarray:
        patched = state["model"]
        embeds = patched.get_input_embeddings()(ids).detach().requires_grad_(True)
        patched(inputs_embeds=embeds, attention_mask=mask).logits[:, 1].sum().backward()
        return (embeds.grad * embeds).sum(-1).detach().cpu().numpy()

    forward = partial(module, ids, mask)
    return Case(
        "BERT-base, {1} tokens, batch {0}, AttnLRP".format(*shape),
        0.9,
        "attn_lrp",
        module,
        [ids, mask],
        forward,
        lxt,
        patch,
        lambda r: r[0],
    )


def gpt2(device: str = "cpu", small: bool = False) -> Case:
    import torch
    from transformers import GPT2Config
    from transformers.models.gpt2 import modeling_gpt2

    torch.manual_seed(0)
    tiny = {"n_embd": 16, "n_layer": 1, "n_head": 2} if small else {}
    config = GPT2Config(attn_implementation="eager", use_cache=False, **tiny)
    model = modeling_gpt2.GPT2LMHeadModel(config).eval().to(device)
    tokens = 8 if small else 256
    ids = torch.randint(0, model.config.vocab_size, (1, tokens)).to(device)

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any) -> Any:
            return self.model(input_ids=ids).logits[:, -1]

    module = Last()

    def patch() -> None:
        from lxt.efficient import monkey_patch

        monkey_patch(modeling_gpt2)

    def lxt() -> np.ndarray:
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        model(inputs_embeds=embeds, use_cache=False).logits[:, -1, 7].sum().backward()
        return (embeds.grad * embeds).sum(-1).detach().cpu().numpy()

    forward = partial(module, ids)
    return Case(
        f"GPT-2 small, {tokens} tokens, AttnLRP", 0.7, "attn_lrp", module, [ids], forward, lxt, patch, np.asarray
    )


CASES = {"vit": partial(vit, False), "vit_gamma": partial(vit, True), "bert": bert, "gpt2": gpt2}
#: The output that is explained.
TARGETS = {"vit": 3, "vit_gamma": 3, "bert": 1, "gpt2": 7}


def seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def paired(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Medians of two calls that take turns."""
    readings = [(seconds(first), seconds(second)) for _ in range(rounds)]
    a, b = zip(*readings, strict=True)
    return statistics.median(a), statistics.median(b)


def freeze(case: Case) -> None:
    """No derivatives of weights, which LXT does not need."""
    for parameter in case.module.parameters():
        parameter.requires_grad_(False)


def compared(case: Case, relevance: np.ndarray) -> np.ndarray:
    """How far each sample's relevance is from LXT's, which has patched PyTorch, as a part of its largest."""
    expected = case.lxt()
    rows = len(expected), -1
    found: np.ndarray = np.abs(relevance - expected).reshape(rows).max(1) / np.abs(expected).reshape(rows).max(1)
    return found


def arrays(case: Case) -> Any:
    values = [x.numpy() for x in case.inputs]
    return values if len(values) > 1 else values[0]


def measure(name: str, rounds: int) -> str:
    """A row of the table."""
    import torch

    torch.set_num_threads(1)
    lrpfast.set_num_threads(1)
    case = CASES[name]()
    model = lrpfast.from_torch(case.module, tuple(case.inputs))
    analyzer = lrpfast.Analyzer(model, case.rule, target=TARGETS[name], device="cpu")
    x = arrays(case)
    ours = partial(analyzer.analyze, x)
    relevance = case.reduce(ours())
    with torch.no_grad():
        case.forward()
        one, forward = paired(ours, case.forward, rounds)
    freeze(case)
    case.patch()
    differences = compared(case, relevance)
    difference = float(np.median(differences))
    if difference > TOLERANCE:
        raise SystemExit(f"{case.title}: relevance differs by {difference:.2g} of the largest")
    two, lxt = paired(ours, case.lxt, rounds)
    ratio = two / lxt
    mark = "✓" if ratio <= case.target else "✗"
    return (
        f"| {case.title} | {two:.2f} s | {lxt:.2f} s | {ratio:.2f} (≤ {case.target:.2g}) {mark} | "
        f"{one / forward:.2f} | {difference:.0e}, {differences.max():.0e} |"
    )


#: What explains a stored model in a process of its own, without PyTorch, and prints its peak memory in MiB.
ALONE = """
import resource, sys
import numpy as np
import lrpfast
path, rule, target = sys.argv[1:]
lrpfast.set_num_threads(1)
inputs = np.load(path + "/inputs.npz")
x = [inputs[name] for name in inputs]
analyzer = lrpfast.Analyzer(lrpfast.load(path + "/model.npz"), rule, target=int(target), device="cpu")
analyzer.analyze(x if len(x) > 1 else x[0])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def memory(name: str, tool: str) -> None:
    """Print a tool's peak memory in MiB."""
    case = CASES[name]()
    if tool == "lxt":
        import torch

        torch.set_num_threads(1)
        freeze(case)
        case.patch()
        case.lxt()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        return
    with tempfile.TemporaryDirectory() as folder:
        lrpfast.from_torch(case.module, tuple(case.inputs)).save(Path(folder) / "model.npz")
        np.savez(Path(folder) / "inputs.npz", *(x.numpy() for x in case.inputs))
        subprocess.run([sys.executable, "-c", ALONE, folder, case.rule, str(TARGETS[name])], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "TOOL"))
    arguments = parser.parse_args()
    if arguments.memory:
        memory(*arguments.memory)
        return
    if len(arguments.cases) == 1:
        print(measure(arguments.cases[0], arguments.rounds), flush=True)
        return
    print("| case | lrpfast | LXT | lrpfast / LXT (target) | lrpfast / PyTorch forward | difference: median, largest |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in arguments.cases:  # each in a process of its own, since LXT patches all of it
        subprocess.run([sys.executable, __file__, name, "--rounds", str(arguments.rounds)], check=True)


if __name__ == "__main__":
    main()
