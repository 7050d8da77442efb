"""``lrpfast rules``: the rules and their defaults, the composites, iNNvestigate's names."""

from __future__ import annotations

import argparse
import re
from dataclasses import MISSING, fields

from ..rules import RULES, Rule, Stabilizer
from ..rules.innvestigate import ANALYZERS, keywords
from ..rules.presets import COMPOSITES


def run(arguments: argparse.Namespace) -> None:
    """Print them."""
    print("Rules, with the defaults of their parameters\n")
    for name, rule in RULES.items():
        print(f"  {name.ljust(13)} {rule.equation}")
        for line in _defaults(rule):
            print(f"  {'':13} {line}")
    print("\nComposites, which give kinds of layers their rules (`lrpfast inspect MODEL --rule NAME` shows which)\n")
    for name, composite in COMPOSITES.items():
        about = re.split(r"[;(\n]|\.$", (composite.__doc__ or "").replace("`", ""), maxsplit=1, flags=re.MULTILINE)[0]
        print(f"  {name.ljust(26)} {about.strip().removesuffix(' in forward order')}")
    print("\niNNvestigate's names, with their keywords (conventions as in iNNvestigate 2.1.2)\n")
    for name in ANALYZERS:
        print(f"  {name.ljust(39)} {', '.join(k for k in keywords(name) if k not in _LRP_KEYWORDS)}".rstrip())
    print(f"\n  All lrp.* also take {', '.join(_LRP_KEYWORDS)}.")
    print("\nOther rules for some layers: --rule-for BatchNorm=pass --rule-for 'block1_*=gamma:gamma=0.5'.")
    print("Conventions: docs/conventions.md. Equations and sources: docs/rules.md, or help(lrpfast.rules.ZBox).")


_LRP_KEYWORDS = ("input_layer_rule", "until_layer_idx", "until_layer_rule")


def _defaults(rule: type[Rule]) -> list[str]:
    """``epsilon 1e-06`` and ``bias absorb (or ignore, …)``, from the rule's own fields."""
    defaults, bias = [], []
    for f in fields(rule):
        if f.name == "bias":
            others = [c for c in rule.conventions if c != f.default]
            bias = [f"bias {f.default}" + (f" (or {', '.join(others)})" if others else "")]
        elif f.default is None or f.default is MISSING:
            defaults.append(f"{f.name} required")
        elif f.name == "stabilizer":
            defaults.append(f"stabilizer {Stabilizer(f.default)}")
        else:
            defaults.append(
                f"{f.name} {f.default:g}" if isinstance(f.default, float) else f"{f.name} {f.default}".lower()
            )
    return [", ".join(defaults), *bias] if defaults else bias
