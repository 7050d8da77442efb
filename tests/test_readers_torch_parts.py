"""Parts of a PyTorch program under `torch.no_grad` and `torch.autocast(enabled=False)`: export writes calls of them."""

import numpy as np
import pytest

import lrpfast
from lrpfast.readers.torch.inlined import WRAPPERS, Part, inline
from lrpfast.readers.torch.records import Op, Ref

torch = pytest.importorskip("torch")


class Parts(torch.nn.Module):
    """Several values of one part, a part within a part, and constants in it."""

    def __init__(self, dtype=None):
        super().__init__()
        self.linear, self.out, self.dtype = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), dtype
        self.register_buffer("angles", torch.arange(5.0))

    def forward(self, x):
        y = self.linear(x)
        with torch.autocast("cpu", enabled=self.dtype is not None, dtype=self.dtype):
            a, b = torch.relu(y), y * torch.cos(self.angles)
            largest, _ = torch.max(torch.stack([a, b]), 0)
        with torch.no_grad():
            c = torch.tanh(a) + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
            with torch.autocast("cpu", enabled=False):
                c = torch.relu(c)
        return self.out(a + b + c + largest)


def exported(module, x):
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(module, (x,), dynamic_shapes=({0: batch},), strict=False)


@pytest.mark.parametrize("source", ["module", "program", "file"])
def test_parts_are_read_in_place(source, tmp_path):
    torch.manual_seed(0)
    module, x = Parts().eval().double(), torch.randn(3, 4).double()
    program = exported(module, x)
    parts = [str(part.graph) for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    assert len(parts) > 2 and all(any(name in graph for graph in parts) for name in WRAPPERS)
    if source == "file":
        torch.export.save(program, tmp_path / "parts.pt2")
        model = lrpfast.load(tmp_path / "parts.pt2")
    else:
        model = lrpfast.from_torch(module, x) if source == "module" else lrpfast.from_torch(program)
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(model.predict(x.numpy(), precision="float64"), expected, rtol=0, atol=1e-12)
    explanation = lrpfast.Analyzer(model, "epsilon", target=1, precision="float64").explain(x.numpy())
    assert explanation.relevance.any() and np.isfinite(explanation.relevance).all()
    assert max(np.abs(balance.rounding).max() for balance in explanation.conservation) < 1e-12


@pytest.mark.parametrize("file", [False, True], ids=["module", "file"])
def test_fewer_digits_are_refused(file, tmp_path):
    module, x = Parts(torch.bfloat16).eval(), torch.randn(3, 4)
    with pytest.raises(lrpfast.UnsupportedLayerError, match="fewer digits under torch.autocast"):
        if file:
            torch.export.save(exported(module, x), tmp_path / "parts.pt2")
            lrpfast.load(tmp_path / "parts.pt2")
        else:
            lrpfast.from_torch(module, x)


def test_names_and_results():
    """Values of a part do not meet those of the program; what is handed on, or wanted twice, is copied."""
    part = Part(
        [Op("aten.relu.default", "relu", {"self": Ref("x")}, ("relu",))], ["x", "z"], [Ref("relu"), Ref("z"), Ref("c")]
    )
    ops = inline(part, "call", [Ref("relu"), 2.0], [["first", "again"], ["handed"], []])
    assert [(op.base, op.name, op.arguments["self"], op.outputs) for op in ops] == [
        ("aten.relu", "call/relu", Ref("relu"), ("first",)),
        ("aten.clone", "again", Ref("first"), ("again",)),
        ("aten.clone", "handed", 2.0, ("handed",)),
    ]
