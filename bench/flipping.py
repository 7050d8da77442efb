"""Flipped features: `evaluate.flip`, and Quantus's PixelFlipping on the same network.

    python bench/flipping.py
    PYTHONPATH=FOLDER python bench/flipping.py --peer   # with Quantus and what it imports in FOLDER

Every pixel of a few images is flipped to the image's darkest value, one after the other, the most relevant first.
Processor time of the whole process, since other work may run beside it.
"""

import argparse
import statistics
import time

import numpy as np

import lrpfast

SAMPLES, SIDE = 8, 28


def network():
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(2)
    layers = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers += [torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 49, 10)).eval()


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="run Quantus too")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    module, x = network(), np.random.default_rng(0).random((SAMPLES, 1, SIDE, SIDE), dtype=np.float32)
    model = lrpfast.from_torch(module, torch.from_numpy(x[:1]))
    target = model.predict(x).argmax(1)
    relevance = lrpfast.Analyzer(model, "epsilon_plus", threads=2).analyze(x, target)
    black = np.broadcast_to(x.min((1, 2, 3), keepdims=True), x.shape)

    def ours():
        steps = {"order": "most", "steps": SIDE * SIDE, "threads": 2}
        return lrpfast.evaluate.flip(model, x, relevance, target=target, baseline=black, **steps).curves["most"][:, 1:]

    calls = {"evaluate.flip": ours}
    if options.peer:
        import quantus

        metric = quantus.PixelFlipping(
            features_in_step=1, perturb_baseline="black", disable_warnings=True, display_progressbar=False
        )
        arguments = {"model": module, "x_batch": x, "y_batch": target, "a_batch": relevance, "softmax": False}
        calls["Quantus's PixelFlipping"] = lambda: np.array(metric(**arguments, device="cpu"))
    times, found = {name: [] for name in calls}, {}
    for _ in range(options.runs):
        for name, call in calls.items():
            begin = time.process_time()
            found[name] = call()
            times[name].append(time.process_time() - begin)
    for name, seconds in times.items():
        difference = np.abs(found[name] - found["evaluate.flip"]).max()
        print(f"{name}: {statistics.median(seconds):.3g} s of processor time, off by {difference:.1g}")


if __name__ == "__main__":
    main()
