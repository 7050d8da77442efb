"""ONNX files whose layers depend on an open length, as PyTorch traces them: they are read anew for each length."""

import pickle
import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L

onnx = pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")

#: Positions that the tables below have.
MOST = 40
LENGTHS = (5, 3, 9, 4, 20, 33, 1)


def parsed(text):
    return pytest.importorskip("onnx.parser").parse_model(f'<ir_version: 8, opset_import: ["": 18]> g {text}')


def exported(path, module, names, opset):
    """The module as a file of open batch and length, traced with two samples of 7 tokens."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; lrpfast[torch] brings it")
    values = {"input_ids": torch.randint(3, 60, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    values["token_type_ids"] = torch.zeros(2, 7, dtype=torch.long)
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and warns of what it traces
        torch.onnx.export(
            module,
            (),
            str(path),
            kwargs={name: values[name] for name in names},
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return path


def classifier():
    """A block of attention with positions, types that are stretched to the batch, and a mask of the least float."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; lrpfast[torch] brings it")
    nn = torch.nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places, self.types = nn.Embedding(60, 16), nn.Embedding(MOST, 16), nn.Embedding(2, 16)
            self.norm, self.q, self.k, self.v = nn.LayerNorm(16), *(nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 3)
            self.register_buffer("position_ids", torch.arange(MOST)[None])
            self.register_buffer("no_types", torch.zeros(1, MOST, dtype=torch.long))

        def forward(self, input_ids, attention_mask):
            batch, n = input_ids.shape
            types = self.no_types[:, :n].expand(batch, n)
            x = self.words(input_ids) + self.types(types) + self.places(self.position_ids[:, :n])
            x = self.norm(x)
            q, k, v = (f(x).view(batch, n, 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
            hidden = (1.0 - attention_mask[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min
            weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + hidden, -1)
            return self.head((x + (weights @ v).transpose(1, 2).reshape(batch, n, 16))[:, 0])

    torch.manual_seed(0)
    return Classifier().eval()


def texts(names, seed=0):
    """Samples of different lengths, each input a list; some tokens of the last but one are hidden."""
    random = np.random.default_rng(seed)
    values = {"input_ids": [random.integers(3, 60, n) for n in LENGTHS]}
    values["attention_mask"] = [np.ones(n, dtype=np.int64) for n in LENGTHS]
    values["attention_mask"][-2][-3:] = 0
    values["token_type_ids"] = [np.zeros(n, dtype=np.int64) for n in LENGTHS]
    return [values[name] for name in names]


def check(model, module, names, tolerance=1e-5):
    """Predictions are those of PyTorch, and lists have the bits of each sample alone."""
    torch = pytest.importorskip("torch")
    assert model.is_open and model.input_shape == [(None,)] * len(names)
    x = texts(names)
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=1, device="cpu")
    relevance = analyzer.analyze(x)
    padded = list(analyzer._core.padded_lengths)
    predicted = model.predict(x)
    for i, n in enumerate(LENGTHS):
        alone = [values[i][None] for values in x]
        with torch.no_grad():
            expected = module(**{name: torch.tensor(a) for name, a in zip(names, alone, strict=True)})
        expected = expected if isinstance(expected, torch.Tensor) else expected[0]
        np.testing.assert_allclose(predicted[i], expected[0].numpy(), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(predicted[i], model.predict(alone)[0])
        fixed = model.with_input_shape(*[n] * len(names))
        assert relevance[0][i].shape == (n,) and not fixed.is_open
        own = lrpfast.Analyzer(fixed, "attn_lrp", target=1, device="cpu").analyze(alone)
        np.testing.assert_array_equal(relevance[0][i], own[0][0])
    return padded


@pytest.mark.parametrize("opset", [14, 17])
def test_a_file_of_open_length(tmp_path, opset):
    names = ["input_ids", "attention_mask"]
    module = classifier()
    path = exported(tmp_path / "m.onnx", module, names, opset)
    model = lrpfast.load(path)
    assert check(model, module, names), "samples of similar lengths should be padded"
    ids, mask = (values[:1] for values in texts(names))
    np.testing.assert_array_equal(
        lrpfast.load(path, input_shape={name: (5,) for name in names}).predict([ids, mask]), model.predict([ids, mask])
    )
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict([ids, mask]), model.predict([ids, mask]))
    layers = zip(model.with_input_shape(4, 4).layers, model.with_input_shape(5, 5).layers, strict=True)
    kernels = [(a.kernel, b.kernel) for a, b in layers if isinstance(a, L.Dense)]
    assert kernels and all(a is b for a, b in kernels), "weights exist once"
    with pytest.raises(lrpfast.LrpfastError, match=f"{MOST}.*{MOST + 1}"):
        model.with_input_shape(MOST + 1, MOST + 1)
    with pytest.raises(lrpfast.LrpfastError, match=r"\(1, 1, 5\)|\(5,"):
        model.with_input_shape(4, 5)


ARCHITECTURES = {
    "Bert": (["input_ids", "attention_mask", "token_type_ids"], {}),
    "Roberta": (["input_ids", "attention_mask"], {"pad_token_id": 1}),
    "MPNet": (["input_ids", "attention_mask"], {"pad_token_id": 1}),
    "DistilBert": (["input_ids", "attention_mask"], {}),
}


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_of_open_length(tmp_path, name, opset):
    """Random weights of each architecture."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    torch = pytest.importorskip("torch")
    names, own = ARCHITECTURES[name]
    sizes = {"vocab_size": 60, "max_position_embeddings": MOST, **own}
    if name == "DistilBert":
        sizes |= {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    else:
        sizes |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = getattr(transformers, f"{name}Config")(**sizes, return_dict=False)
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    model = lrpfast.load(exported(tmp_path / "m.onnx", module, names, opset))
    padded = check(model, module, names)
    # positions that are counted from the tokens, as of RoBERTa, are not padded
    assert bool(padded) == (name in ("Bert", "DistilBert"))


#: x times 0, 1, 2, …: constants that are made for a length.
COUNTED = """(float[N, L] x) => (float[N, L] y) <int64 zero = {0}, int64 one = {1}> {
    s = Shape (x) n = Gather (s, one) r = Range (zero, n, one) f = Cast <to = 1> (r) y = Mul (x, f)
}"""


def test_what_a_length_takes_is_charged(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(parsed(COUNTED), path)
    model = lrpfast.load(path)
    np.testing.assert_array_equal(model.predict([[2.0, 2.0, 2.0]]), [[0.0, 2.0, 4.0]])
    with pytest.raises(lrpfast.ModelFormatError, match="are the most"):
        model.with_input_shape(10**8)
    assert lrpfast.load(path, memory=10**9).with_input_shape(10**7).input_shape == (10**7,)
    with pytest.raises(lrpfast.ModelFormatError, match="are the most"):
        model.with_input_shape(10**7)


def test_a_table_of_positions_that_ends():
    """As of GPT-2: rows of a table at 0, 1, 2, …; longer samples than it has rows are refused."""
    table = "one = {1}, float[8] t = {1, 2, 3, 4, 5, 6, 7, 8}>"
    proto = parsed(COUNTED.replace("one = {1}>", table).replace("f = Cast <to = 1> (r)", "f = Gather (t, r)"))
    model = lrpfast.from_onnx(proto)
    np.testing.assert_array_equal(model.predict([[2.0, 2.0, 2.0]]), [[2.0, 4.0, 6.0]])
    with pytest.raises(lrpfast.ModelFormatError, match="index 8 is out of bounds"):
        model.with_input_shape(9)
    del proto.graph.initializer[-1].dims[:], proto.graph.initializer[-1].float_data[5:]
    proto.graph.initializer[-1].dims.append(5)  # too few for a second size that is tried
    with pytest.raises(lrpfast.ModelFormatError, match="out of bounds.*--input-shape n"):
        lrpfast.from_onnx(proto)
    assert lrpfast.from_onnx(proto, input_shape=3).predict([[2.0, 2.0, 2.0]]).tolist() == [[2.0, 4.0, 6.0]]


def test_one_of_several_sizes_may_be_fixed(tmp_path):
    """The caller fixes one open size, the data decide the other."""
    text = COUNTED.replace("float[N, L]", "float[N, C, L]").replace("one = {1}>", "one = {1}, int64 two = {2}>")
    proto = parsed(text.replace("Gather (s, one)", "Gather (s, two)"))
    model = lrpfast.from_onnx(proto, input_shape=(3, None))
    assert model.input_shape == (3, None)
    x = np.ones((2, 3, 4), "float32")
    np.testing.assert_array_equal(model.predict(x), x * np.arange(4))
    with pytest.raises(lrpfast.LrpfastError, match="3"):
        model.with_input_shape((2, 4))


def test_a_warning_appears_once():
    """States that have the batch on another axis, in a file that is read three times."""
    text = COUNTED.replace("(float[N, L] x)", "(float[N, L] x, float[1, N, L] h)").replace(
        "one = {1}>", "one = {1}, int64[1] axes = {0}>"
    )
    proto = parsed(text.replace("y = Mul (x, f)", "t = Squeeze (h, axes) z = Add (x, t) y = Mul (z, f)"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = lrpfast.from_onnx(proto)
    assert model.is_open
    assert [str(w.message) for w in caught] == [
        "the input 'h' has the batch on axis 1; lrpfast takes it first: (samples, 1, None)"
    ]
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(model.predict([x, 2 * x[:, None]]), 3 * x * np.arange(3))
