"""Which cases of a test run first: a share of them in which everything has its turn."""

import re

SHARE = 3
TURN = 17


def quick(names, share=SHARE):
    """The numbers of one in `share` cases, and of those whose names have a word that none of these has.

    So each layer, rule, parameter, size and backend has its turn. A name of one word is a case like any other.
    """
    words = [words_of(name) for name in names]
    # every third, so that each layer of a list has its turn, and now and then one earlier: other rules, other sizes
    chosen = {at for at in range(len(names)) if (at - at // TURN) % share == 0}
    seen = set().union(*(words[at] for at in chosen))
    for at, own in enumerate(words):
        if len(own) > 1 and own - seen:
            chosen.add(at)
            seen |= own
    return chosen


def words_of(name):
    """What stands between a name's dashes, but those of numbers."""
    return set(re.split(r"(?<![=(,])(?<!\de)-", name))
