"""Random numbers of tests: each test draws its own, seeded by its name, whatever ran before it."""

import zlib

import numpy as np

_GENERATORS = []


def generator(seed):
    """A module's generator: seeded here for the data that the module makes, and before each test by the test's name."""
    rng = np.random.default_rng(seed)
    _GENERATORS.append(rng)
    return rng


def reseed(name):
    """Begin a test: every generator starts again, from a seed that only this name has."""
    state = np.random.PCG64(zlib.crc32(name.encode())).state
    for rng in _GENERATORS:
        rng.bit_generator.state = state
