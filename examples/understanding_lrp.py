"""The notebook understandingLRP again, cell by cell, each figure beside the one that it printed.

The notebook (XAIRT, github.com/Shreyas911/XAIRT) trains a classifier of two inputs, explains one sample with
iNNvestigate under several rules, and then by hand. Its sums did not come out: relevance was missing, now 3.63 of 4.02,
now 0.0007. This script trains the same model, repeats every cell and says where the relevance went.

    python examples/understanding_lrp.py
    python examples/understanding_lrp.py --plot understanding_lrp.png

It needs lrpfast, `trainer.py` beside it, and for the picture matplotlib (pip install matplotlib). It takes a few
seconds. Cells are numbered as in the notebook.
"""

# %% Cell 1: what is needed
import argparse
import importlib.util
import sys
import textwrap

import numpy as np

import lrpfast
from lrpfast import demo, rules
from trainer import step_decay, train

parser = argparse.ArgumentParser(description="A published notebook about LRP again, cell by cell.")
parser.add_argument("--plot", metavar="FILE", help="draw the training and the explanations (.png, .pdf, .svg)")
# inside a notebook the command line is the notebook's own
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
if options.plot:
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    from matplotlib.figure import Figure

    try:
        lrpfast.plot.save(Figure(), options.plot)  # a wrong name is told now; the picture itself comes last
    except (lrpfast.errors.LrpfastError, OSError) as error:
        parser.error(str(error))

agreeing, compared = 0, 0


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def say(text):
    print("\n" + textwrap.fill(" ".join(text.split()), 100))


def agree(mark, good):
    """The mark of a figure that agrees with the notebook's, counted for the end."""
    global agreeing, compared
    agreeing, compared = agreeing + bool(good), compared + 1
    return mark if good else "DIFFERS"


def columns():
    print(demo.row("", "", ("R of x_0", "R of x_1"), "R − ΣR_i"))


# %% Cell 2: the data
# Ten thousand points of the unit square. The notebook's classes are x_0 + 2 x_1 ≥ 3 and < 3.
heading("Cell 2: the data")
rng = np.random.RandomState(42)
x = rng.rand(10_000, 2)
labels = np.where(x @ [1, 2] >= 3, 0, 1)
print(f"Samples of class 0: {(labels == 0).sum():,}, of class 1: {(labels == 1).sum():,}.")
say("""
x_0 + 2 x_1 is never 3 in the unit square, so class 0 is empty. The network can only learn to say class 1 always, and
its bias is the shortest way to say so. That is why the bias will hold nine tenths of the output.""")

# %% Cell 3: training
# One Dense layer with a softmax and a bias that may not be negative; the last fifth of the samples validates. The model
# file names the initializer, HeNormal(seed=42), and these are the numbers that TensorFlow drew from it. Everything else
# that is random comes from NumPy's generator above, which Keras shuffles with.
heading("Cell 3: training, 100 epochs")
FIRST = np.array([[-0.31919837, -0.1566031], [-0.76888347, 0.02794418]])
epochs = []
((kernel, bias),) = train(
    x[:8000],
    labels[:8000],
    (x[8000:], labels[8000:]),
    layers=[2],
    epochs=100,
    batch_size=128,
    learning_rate=step_decay(0.01, drop=0.5, every=25),
    momentum=0.9,
    nonnegative_bias=True,
    start=[(FIRST, FIRST[0])],
    rng=rng,
    on_epoch=lambda *epoch: epochs.append(epoch),
)
PRINTED_LOSSES = {1: (0.2219, 0.08306), 2: (0.0625, 0.04389), 10: (0.0113, 0.00996), 25: (0.0047, 0.00425)}
PRINTED_LOSSES[100] = (0.0025, 0.00233)
print(demo.row("", "", ("loss", "validation")))
for epoch, printed in PRINTED_LOSSES.items():
    here = epochs[epoch - 1][1:]
    print(demo.row(f"epoch {epoch}", "notebook", printed))
    good = abs(here[0] - printed[0]) < 6e-5 and abs(here[1] - printed[1]) < 2e-5
    print(demo.row("", "here", [f"{v:.6f}" for v in here], mark=agree("same", good)))
accuracy = (np.argmax(x @ kernel + bias, 1) == labels).mean()
say(f"""
The notebook printed four to five digits; the last one may differ, as it trained on a GPU in TF32 and this script in
float64. Accuracy: {accuracy:.0%}, which says nothing, as there is one class only.""")

# %% Cell 4: the weights
heading("Cell 4: the weights")
model, figures = demo.notebook()
stored = figures["model"]
for name, printed, here in [
    ("kernel, x_0", stored["kernel"][0], kernel[0]),
    ("kernel, x_1", stored["kernel"][1], kernel[1]),
    ("bias", stored["bias"], bias),
]:
    print(demo.row(name, "notebook", printed))
    good = np.allclose(here, printed, rtol=0, atol=1e-5)
    print(demo.row("", "trained", [f"{v:.7f}" for v in here], mark=agree("same", good)))
say("""
They agree to 1e-5. The notebook's repository keeps an earlier run on a CPU, whose weights differ from the printed ones
by up to 5e-6 too. From here on the notebook's own weights are used, to compare to the last digit.""")
print()

sample = x[demo.SHOWN : demo.SHOWN + 1]  # the notebook's x
predicted = model.without_softmax().predict(sample, precision="tf32")
dense = next(layer for layer in model.layers if isinstance(layer, lrpfast.layers.Dense))
product = sample @ dense.kernel + dense.bias - predicted
for name, printed, here, places in [
    ("x", figures["input"]["printed"][0], sample[0], 8),
    ("predicted", stored["predicted"][0], predicted[0], 8),
    ("x @ W + b − predicted", stored["x@W+b-predicted"][0], product[0], 7),
]:
    print(demo.row(name, "notebook", [f"{v:.{places}g}" for v in printed]))
    good = np.allclose(here, printed, rtol=6e-8, atol=0)
    print(demo.row("", "tf32", [f"{v:.{places}g}" for v in here], mark=agree("same", good)))
say("""
The last line is the first sign: the network and the same product in NumPy differ by 1.5e-4, thousands of times
float32's rounding. The A100 rounded both factors to 10 bits (TensorFloat-32), and so does precision="tf32".""")

# %% Cell 5: the inputs' range
heading("Cell 5: the inputs' range")
printed, here = (1.1634755366141114e-05, 0.9999248268331765), (x.min(), x.max())
print(f"notebook {printed}\nhere     {tuple(map(float, here))}  {agree('same', printed == here)}")

# %% The explanations, all at once
# Cells 15, 16, 18 and 19 gave the Bounded rule bounds of their own.
figures["library_cells_tf32"] += [
    {"analyzer": name, "kwargs": {"input_layer_rule": bounds}, "relevance": [relevance], "R_minus_sum": missing}
    for name in ("lrp.alpha_1_beta_0", "lrp.alpha_1_beta_0_IB")
    for bounds, relevance, missing in [
        ((-20, 20), [1.9642056, 2.060133], -0.00013446807861328125),
        ((-0.4, 0.6), [1.9643688, 2.0602174], -0.0003819465637207031),
    ]
]
cells, _ = demo.explain_cells(model, figures, x)
library = dict(zip([6, 7, 11, 12, 14, 17, 23, 27, 28, 15, 16, 18, 19], cells, strict=True))

# The notebook's manual cells share out the class's output as the GPU gave it, among products in float64.
R = float(predicted[0].max())
BARE = rules.Stabilizer(1e-9, "zero")  # divides by z as it is
manual = dict(zip([8, 9, 10, 13, 20, 25, 26, 29, 30], figures["manual_cells_float64"]["cells"], strict=False))


def show_library(*numbers):
    for number in numbers:
        print(f"\nCell {number}: {library[number].label}")
        agree("", library[number].same)
        print(library[number].table())


def by_lrpfast(rule):
    """R shared out by one of lrpfast's rules, in float64."""
    return lrpfast.Analyzer(model, rule, target=np.array([[0.0, R]]), precision="float64").analyze(sample)[0]


def digits(*values):
    return [f"{v:.10g}" for v in values]


def show_manual(number, title, rule, printed=None, missing=None):
    """A manual cell: the notebook's figures beside those of one of lrpfast's rules, which have to agree to 1e-12."""
    if printed is None:
        printed, missing = manual[number]["relevance"], manual[number]["R_minus_sum"]
    show(number, title, printed, missing, f"{type(rule).__name__}, bias={rule.bias}", by_lrpfast(rule))


def show(number, title, printed, missing, name, relevance):
    print(f"\nCell {number}: by hand, {title}")
    print(demo.row("", "notebook", digits(*printed), *digits(missing)))
    rest = R - relevance.sum()
    good = np.allclose(relevance, printed, rtol=1e-12, atol=0) and abs(rest - missing) < 1e-12
    print(demo.row(f"  {name}", "float64", digits(*relevance), *digits(rest), agree("same", good)))


# %% Cells 6 to 10: alpha 1, beta 0
heading("Cells 6 to 10: α = 1, β = 0")
columns()
show_library(6, 7)
show_manual(8, "the bias in every numerator", rules.AlphaBeta(1, 0, stabilizer=BARE, bias="repeat"))
show_manual(9, "the bias in the denominator only", rules.AlphaBeta(1, 0, stabilizer=BARE))
show_manual(10, "without the bias", rules.AlphaBeta(1, 0, stabilizer=BARE, bias="ignore"))
say("""
So cell 6 is cell 9: the bias keeps its share, 3.63 of 4.02, and no input gets it. That is the rule's convention, not
a bug: bias="absorb" in lrpfast, and what zennit and captum do as well. Cell 7 is cell 10, bias="ignore": nothing is
missing, except for TF32. Cell 8, which gives each input the whole bias and counts it twice below, is a convention that
iNNvestigate, zennit and captum lack: bias="repeat". It too adds up, but its two figures differ by 0.005 only, as the
bias drowns them.
The 0.0007 of cell 7 are not the rule's, but TF32's: in float32 and float64 they are gone, and the notebook's earlier
run on a CPU printed 0.0 here.""")

# %% Cells 11 to 13: w-square
heading("Cells 11 to 13: w-square in the first layer")
columns()
show_library(11, 12)
show_manual(13, "w-square", rules.WSquare(stabilizer=BARE))
say("""
The rule in the input layer is the only rule here, as there is one layer; _IB changes nothing. The rule has no bias.""")

# %% Cells 14 to 22: bounded
# The z-box rule: R_i = Σ_j (x_i w_ij − low w⁺_ij − high w⁻_ij) / Σ_i(the same) · R_j. The notebook wrote w⁺ as
# numpy.max(w, 0), which is not the larger of w and 0: its 0 is the axis. Of a single number it is that number.
heading("Cells 14 to 22: bounded (z-box) in the first layer")
columns()
show_library(14, 15, 16, 17, 18, 19)
w = dense.kernel[:, 1].astype(np.float64)


def share(contributions):
    return R * contributions / contributions.sum()


def as_written(low, high):
    return share(sample[0] * w - low * np.array([np.max(v, 0) for v in w]) - high * np.array([np.min(v, 0) for v in w]))


def as_meant(low, high):
    return share(sample[0] * w - low * np.maximum(w, 0) - high * np.minimum(w, 0))


bounded = [
    (20, (-1, 1), manual[20]["relevance"], manual[20]["R_minus_sum"]),
    (21, (-20, 20), [1.9643472463166267, 2.0598570078338008], -3.68594044175552e-14),
    (22, (0.4, 0.6), [1.9641630539560861, 2.060041200194304], 8.881784197001252e-16),
]
for number, bounds, printed, missing in bounded:
    show(number, f"bounds {bounds}", printed, missing, "numpy.max(w, 0), as written", as_written(*bounds))
    print(demo.row("  numpy.maximum(w, 0), meant", "float64", digits(*as_meant(*bounds))))
    ours = by_lrpfast(rules.ZBox(*bounds, stabilizer=BARE))
    good = np.allclose(ours, as_meant(*bounds), rtol=1e-12, atol=0)
    print(demo.row("  ZBox", "float64", digits(*ours), mark="meant" if good else "DIFFERS"))
say("""
The formula of cells 20 to 22 is not the z-box rule. numpy.max(w, 0) is w itself, and so is numpy.min(w, 0), so each
contribution becomes (x_i − low − high) w_i. With low = −high the bounds cancel: cells 20 and 21 print what cells 10
and 26 do, the z rule without bias, whatever the bounds. It went unnoticed as the right values are near: the two weights
are nearly equal, and so are the two inputs. With numpy.maximum the formula is lrpfast's ZBox, and iNNvestigate's
Bounded but for TF32. In cells 8 to 10 the slip does no harm: both weights and the bias of this class are positive, so
w⁺ is w.""")
say("""
Cell 16 has the bounds (−0.4, 0.6) and cell 22 (0.4, 0.6), so they cannot be compared. The inputs lie between 0 and 1
(cell 5): only (−1, 1) and (−20, 20) hold them, and (0, 1) would be the bounds to take.""")

# %% Cells 23 to 26: z
heading("Cells 23 to 26: z")
columns()
show_library(23)
print("\nCell 24: no lrp.z without bias in iNNvestigate; lrpfast has lrp.z_IB")
ignoring = lrpfast.create_analyzer("lrp.z_IB", model).analyze(sample)[0]
print(demo.row("", "float32", [str(v) for v in ignoring]))
show_manual(25, "the bias in the denominator only", rules.Zero(stabilizer=BARE))
show_manual(26, "without the bias", rules.Zero(stabilizer=BARE, bias="ignore"))
say("""
All contributions to this class are positive, so z and α = 1, β = 0 are the same here.""")

# %% Cells 27 to 30: epsilon
heading("Cells 27 to 30: ε = 1e-7")
columns()
show_library(27, 28)
# cell 29's second figure is misprinted: what its own residual leaves of R is compared instead
missing = manual[29]["R_minus_sum"]
first = manual[29]["relevance"][0]
show_manual(29, "the bias in the denominator only", rules.Epsilon(1e-7), [first, R - first - missing], missing)
show_manual(30, "without the bias", rules.Epsilon(1e-7, bias="ignore"))
say(f"""
An ε of 1e-7 takes 1e-6 of relevance from cell 30 and 1e-8 from cell 29. Cell 29's second figure was printed with one
wrong digit, {manual[29]["relevance"][1]}: the residual printed beside it asks for {R - first - missing:.14f}, shown
above.""")

# %% What the trained model gives
# The same conventions for the model trained here and all ten thousand inputs.
heading("The trained model: does relevance add up?")
trained = lrpfast.from_layers([lrpfast.layers.Dense(kernel, bias)])
output = trained.predict(x, precision="float64").max(1)
CONVENTIONS = [
    ("the bias keeps its share", rules.Zero()),
    ("bias left out", rules.Zero(bias="ignore")),
    ("bias shared out", rules.Zero(bias="distribute")),
    ("bias to every input", rules.Zero(bias="repeat")),
    ("w-square", rules.WSquare()),
    ("z-box, bounds 0 and 1", rules.ZBox(0, 1)),
]
explained = {
    name: lrpfast.Analyzer(trained, rule, precision="float64").analyze(x).astype(np.float64)
    for name, rule in CONVENTIONS
}
print(demo.row("sample 2 of 10,000", "", ("R of x_0", "R of x_1"), "R − ΣR_i"))
for name, relevance in explained.items():
    rest = output - relevance.sum(1)
    at = demo.SHOWN
    print(demo.row(name, "float64", [f"{v:.7f}" for v in relevance[at]], f"{rest[at]:.7f}"))
print(f"\n{'R − ΣR_i of all samples':<31}{'':<9}{'smallest':>14}{'largest':>14}")
for name, relevance in explained.items():
    rest = output - relevance.sum(1)
    print(demo.row(name, "float64", [f"{v:.7f}" for v in (rest.min(), rest.max())]))
say(f"""
Where the bias keeps its share, {bias[1]:.4f} is missing from every sample: the bias itself. Everywhere else relevance
adds up but for the stabilizer: 1e-6 beneath z, which is felt by z-box where z nearly vanishes, next to the corner
(0, 0). With bounds 0 and 1 and weights above 0, z-box is the z rule without bias.""")

# %% The end
heading("What was wrong")
print(f"""\
1. 3.63 of 4.02: the bias's share, by the rule's convention. Choose another (docs/conventions.md).
2. Up to 0.0012: TensorFloat-32, which the GPU multiplied in.
3. The manual Bounded formula: numpy.max(w, 0) is not w⁺; numpy.maximum(w, 0) is.
4. The data: one class only, so nothing about the inputs was there to learn.

{agreeing} of {compared} comparisons with the notebook's figures agree.""")

# %% The picture
if options.plot:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    number, loss, validation = np.array(epochs).T
    left.semilogy(number, loss, label="training")
    left.semilogy(number, validation, label="validation")
    left.plot([*PRINTED_LOSSES], [v for _, v in PRINTED_LOSSES.values()], "k.", label="validation, as printed")
    left.set(xlabel="epoch", ylabel="cross-entropy", title="Training")
    left.legend()
    below = np.zeros(len(explained))
    shares = np.array([relevance[demo.SHOWN] for relevance in explained.values()])
    for part, label in zip([*shares.T, output[demo.SHOWN] - shares.sum(1)], ["x_0", "x_1", "missing"], strict=True):
        style = {"color": "none", "edgecolor": "0.4", "hatch": "///"} if label == "missing" else {}
        right.barh([*explained], part, left=below, label=label, **style)
        below = below + part
    right.invert_yaxis()
    right.set_xlim(0, 1.02 * output[demo.SHOWN])
    right.set(xlabel="relevance", title=f"One sample: who gets how much of {output[demo.SHOWN]:.2f}")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    lrpfast.plot.save(figure, options.plot)
    print(f"Wrote {options.plot}.")
