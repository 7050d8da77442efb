"""zennit's own rules on a residual network with batch norm: the same numbers where the norms are folded exactly."""

import copy

import numpy as np
import pytest

import lrpfast

torch = pytest.importorskip("torch", reason="zennit needs PyTorch")
pytest.importorskip("zennit", reason="this compares with zennit: pip install zennit")
nn = torch.nn


def conv_and_norm(channels, size):
    conv, norm = nn.Conv2d(channels, 5, size, padding=size // 2, bias=False), nn.BatchNorm2d(5)
    for name, low, high in (("running_mean", -1, 1), ("running_var", 0.5, 2), ("weight", 0.5, 2), ("bias", -1, 1)):
        getattr(norm, name).data.uniform_(low, high)
    return conv, norm


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        from zennit.layer import Sum

        self.a = nn.Sequential(*conv_and_norm(4, 3), nn.ReLU(), *conv_and_norm(5, 3))
        self.s = nn.Sequential(*conv_and_norm(4, 1))
        self.sum, self.relu = Sum(), nn.ReLU()

    def forward(self, x):
        return self.relu(self.sum(torch.stack([self.a(x), self.s(x)], -1)))


def network():
    torch.manual_seed(4)
    first = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), Block(), nn.Flatten(), nn.Linear(5 * 36, 3)).double().eval()


def folded(module):
    """The module with every norm multiplied into the convolution before it, and left out."""
    module = copy.deepcopy(module)
    for part in (module[2].a, module[2].s):
        for i in range(len(part) - 1):
            conv, norm = part[i], part[i + 1]
            if isinstance(norm, nn.BatchNorm2d):
                factor = norm.weight / (norm.running_var + norm.eps).sqrt()
                exact = nn.Conv2d(conv.in_channels, 5, conv.kernel_size, padding=conv.padding).double()
                exact.weight.data = (conv.weight * factor[:, None, None, None]).data
                exact.bias.data = (norm.bias - norm.running_mean * factor).data
                part[i], part[i + 1] = exact, nn.Identity()
    return module.eval()


def theirs(module, x, layer, canonizers):
    """Relevance of the input, and of a layer inside the block."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat

    outputs = []

    def remember(module, inputs, output):
        output.retain_grad()
        outputs.append(output)

    with Gradient(module, EpsilonPlusFlat(canonizers=canonizers)) as attributor:
        handle = layer(module).register_forward_hook(remember)
        _, relevance = attributor(x, lambda y: y * torch.eye(3, dtype=torch.double)[[1] * len(x)])
        handle.remove()
    return relevance.detach().numpy(), outputs[0].grad.numpy().transpose(0, 2, 3, 1)


def test_batch_norm_is_folded_exactly():
    from zennit.canonizers import SequentialMergeBatchNorm

    module, x = network(), torch.randn(3, 2, 6, 6, generator=torch.manual_seed(5), dtype=torch.double)
    explanation = lrpfast.Analyzer(lrpfast.from_torch(module, x), "epsilon_plus_flat", precision="float64").explain(
        x, 1, layers=True
    )
    ours = explanation.relevance.numpy(), explanation.layers["2.a.4"].numpy()
    exact = theirs(folded(module), x, lambda m: m[2].a[3], [])
    left = theirs(copy.deepcopy(module), x, lambda m: m[2].a[3], [SequentialMergeBatchNorm()])
    for own, same, near in zip(ours, exact, left, strict=True):
        largest = np.abs(own).max()
        assert np.abs(own - same).max() < 1e-12 * largest
        assert 1e-9 * largest < np.abs(own - near).max() < 1e-3 * largest
