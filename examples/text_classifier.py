"""Which words made a review good or bad: a small transformer on made sentences, its tokens coloured by relevance.

A grammar makes reviews such as "the plot was not dull but the actor was bad". A word of praise counts +1,
one of blame −1, "very" doubles it and "not" turns it round; a review is good if the sum is above 0. A transformer of
two blocks learns this from the sentences alone. Then AttnLRP (Achtibat et al. 2024) explains its answers: words that
count carry most of the relevance, and "not" speaks for good before blame and against it before praise.

    python examples/text_classifier.py                      writes text_classifier/, about 15 s
    python examples/text_classifier.py --steps 50 --folder words

It needs lrpfast alone; matplotlib for the picture (pip install matplotlib). `lrpfast.load` reads a transformer of your
own, of PyTorch, ONNX or Keras: everything from "The explanations" on stays the same.
"""

# %% What is needed
import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import lrpfast

sys.path.insert(0, str(Path(__file__).parent if "__file__" in globals() else Path("examples")))
from tiny_autograd import Adam, Variable  # noqa: E402

parser = argparse.ArgumentParser(description="Which words made a review good or bad: a transformer on made sentences.")
parser.add_argument("--folder", type=Path, default=Path("text_classifier"), help="where files go; default: %(default)s")
parser.add_argument("--steps", type=int, default=500, help="of training; default: %(default)s")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
folder = options.folder
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(3)

# %% The sentences
PRAISE = ["good", "great", "clever", "lovely", "funny"]
BLAME = ["bad", "dull", "awful", "silly", "boring"]
NOUNS = ["film", "plot", "actor", "music", "ending"]
WORDS = ["[pad]", "[cls]", *PRAISE, *BLAME, *NOUNS, "the", "was", "not", "very", "and", "but"]
ID = {word: i for i, word in enumerate(WORDS)}
LENGTH = 14


def clause():
    """Words, and what they say."""
    praise = rng.random() < 0.5
    turned, doubled = rng.random() < 0.4, rng.random() < 0.3
    words = [
        "the",
        rng.choice(NOUNS),
        "was",
        *["not"] * turned,
        *["very"] * doubled,
        rng.choice(PRAISE if praise else BLAME),
    ]
    return words, (1 if praise else -1) * (-1 if turned else 1) * (2 if doubled else 1)


def review():
    """One or two clauses that do not cancel: words, and whether the review is good."""
    while True:
        (first, a), (second, b) = clause(), clause()
        words, value = (first, a) if rng.random() < 0.2 else ([*first, rng.choice(["and", "but"]), *second], a + b)
        if value:
            return ["[cls]", *words], int(value > 0)


def reviews(count):
    texts, labels = zip(*(review() for _ in range(count)), strict=True)
    ids = np.zeros((count, LENGTH), int)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = [ID[word] for word in text]
    return texts, ids, np.array(labels)


# %% The network: two pre-norm blocks with relative positions, and the answer at the class token
HEADS, SIZE, BLOCKS = 2, 24, 2
parameters = {"words": rng.normal(size=(len(WORDS), SIZE)) * 0.3, "head": rng.normal(size=(SIZE, 2)) * 0.1}
parameters["answer"] = np.zeros(2)
for b in range(BLOCKS):
    for name, shape in {"q": (SIZE, SIZE), "k": (SIZE, SIZE), "v": (SIZE, SIZE), "o": (SIZE, SIZE)}.items():
        parameters[f"{b}.{name}"] = rng.normal(size=shape) / np.sqrt(SIZE)
    parameters[f"{b}.up"] = rng.normal(size=(SIZE, 2 * SIZE)) * np.sqrt(2 / SIZE)
    parameters[f"{b}.down"] = rng.normal(size=(2 * SIZE, SIZE)) * 0.3 / np.sqrt(2 * SIZE)
    parameters[f"{b}.near"] = np.zeros((2 * LENGTH - 1, HEADS))  # added to scores, by the distance of two words
    for norm in ("n1", "n2"):
        parameters[f"{b}.{norm}.gamma"], parameters[f"{b}.{norm}.beta"] = np.ones(SIZE), np.zeros(SIZE)
p = {name: Variable(value) for name, value in parameters.items()}
distance = np.arange(LENGTH) - np.arange(LENGTH)[:, None] + LENGTH - 1


def forward(ids):
    """The two logits of each sentence."""
    count = len(ids)
    hidden = np.where(ids == 0, -1e9, 0.0)[:, None, None]
    x = p["words"].rows(ids)
    for b in range(BLOCKS):
        y = x.norm(p[f"{b}.n1.gamma"], p[f"{b}.n1.beta"])
        q, k, v = (
            (y @ p[f"{b}.{part}"]).reshape(count, LENGTH, HEADS, -1).transpose(0, 2, 1, 3) for part in ("q", "k", "v")
        )
        near = p[f"{b}.near"].rows(distance).transpose(2, 0, 1)
        weights = (((q @ k.transpose(0, 1, 3, 2)) * (SIZE // HEADS) ** -0.5 + near) + hidden).softmax()
        x = x + (weights @ v).transpose(0, 2, 1, 3).reshape(count, LENGTH, SIZE) @ p[f"{b}.o"]
        y = x.norm(p[f"{b}.n2.gamma"], p[f"{b}.n2.beta"])
        x = x + (y @ p[f"{b}.up"]).relu() @ p[f"{b}.down"]
    return x.transpose(1, 0, 2).rows(np.array(0)) @ p["head"] + p["answer"]


optimizer = Adam(p)
for number in range(1, options.steps + 1):
    _, ids, labels = reviews(64)
    logits = forward(ids)
    slope = logits.softmax().value
    slope[np.arange(len(labels)), labels] -= 1
    logits.backward(slope / len(labels))
    optimizer.step(0.01 * min(1.0, number / 20) * 0.995 ** (number / 3))

# %% The same network as an lrpfast model, whose mask says which tokens are words
L = lrpfast.layers
w = {name: variable.value for name, variable in p.items()}
graph = lrpfast.Graph()
tokens, there = graph.input(LENGTH, "tokens"), graph.input(LENGTH, "there", "truth")
x = graph.add(L.Embedding(w["words"], name="words"), tokens)
for b in range(BLOCKS):
    y = graph.add(L.LayerNorm(w[f"{b}.n1.gamma"], w[f"{b}.n1.beta"], epsilon=1e-5, name=f"{b}.n1"), x)
    q, k, v = (graph.add(L.Dense(w[f"{b}.{part}"], name=f"{b}.{part}"), y) for part in ("q", "k", "v"))
    near = w[f"{b}.near"][distance].transpose(2, 0, 1)
    y = graph.add(L.Attention(HEADS, bias=near, name=f"{b}.attention"), q, k, v, there)
    x = graph.add(L.Add(name=f"{b}.attended"), x, graph.add(L.Dense(w[f"{b}.o"], name=f"{b}.o"), y))
    y = graph.add(L.LayerNorm(w[f"{b}.n2.gamma"], w[f"{b}.n2.beta"], epsilon=1e-5, name=f"{b}.n2"), x)
    y = graph.add(L.Dense(w[f"{b}.up"], activation="relu", name=f"{b}.up"), y)
    x = graph.add(L.Add(name=f"{b}.out"), x, graph.add(L.Dense(w[f"{b}.down"], name=f"{b}.down"), y))
x = graph.add(L.Flatten(), graph.add(L.Take(([0],), name="class_token"), x))
model = graph.model(graph.add(L.Dense(w["head"], w["answer"], name="answer"), x), name="reviews")
model.save(folder / "reviews.npz")
texts, ids, labels = reviews(500)
inputs = [ids, ids != 0]
answers = model.predict(inputs)
accuracy = (answers.argmax(1) == labels).mean()
print(f"{accuracy:.1%} of 500 new reviews are told right")

# %% The explanations: "good" minus "bad", so that red speaks for good and blue for bad
analyzer = lrpfast.Analyzer(model, "attn_lrp", target=(1, 0))
relevance, _ = analyzer.analyze(inputs)
assert not relevance[ids == 0].any()  # padding gets exactly 0
words = [[word for word in text if word != "[cls]"] for text in texts]
rows = [row[1 : len(text)] for row, text in zip(relevance, texts, strict=True)]
shown = lrpfast.plot.text(
    words[:8],
    rows[:8],
    labels=[f"{'good' if y[1] > y[0] else 'bad'} by {abs(y[1] - y[0]):.1f}" for y in answers[:8]],
    title="for good (red) or bad (blue)",
)
print(shown)

# %% All of them: what each word carries, and how much of the relevance the words have that count
counting = {*PRAISE, *BLAME, "not", "very"}
carried = {word: np.array([]) for word in WORDS}
for text, row in zip(words, rows, strict=True):
    for i, (word, value) in enumerate(zip(text, row, strict=True)):
        meant = text[i + 1 + (text[i + 1] == "very")] if word == "not" else ""
        name = f"not ({'praise' if meant in PRAISE else 'blame'})" if meant else word
        carried[name] = np.append(carried.get(name, []), value)
share = sum(np.abs(carried[word]).sum() for word in carried if word.split()[0] in counting)
share /= sum(np.abs(values).sum() for values in carried.values())
print(f"words that count carry {share:.0%} of the relevance; mean of each:")
for kind in (PRAISE, BLAME, ["not (praise)", "not (blame)"], NOUNS, ["the", "was", "and", "but"]):
    print("  " + ", ".join(f"{word} {carried[word].mean():+.2f}" for word in kind if len(carried.get(word, ()))))

# %% The picture
if importlib.util.find_spec("matplotlib") is None:
    print("\nno picture: it needs matplotlib (pip install matplotlib)")
else:
    lrpfast.plot.save(shown, folder / "reviews.png")
    print(f"\npicture: {folder / 'reviews.png'}")
