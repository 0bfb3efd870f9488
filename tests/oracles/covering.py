"""Covering products: few cases in which every pair of choices occurs together at least once."""

from itertools import combinations
from random import Random


def pairwise(factors: dict[str, tuple]) -> list[dict]:
    """Cases, each naming one choice a factor, such that all pairs of choices are covered."""
    random = Random(0)
    names = list(factors)

    def pairs(case: dict[str, int]) -> set:
        return {((a, case[a]), (b, case[b])) for a, b in combinations(names, 2)}

    missing = {
        ((a, i), (b, j))
        for a, b in combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }
    cases = []
    while missing:
        # Start from a pair still missing, fill in the rest at random, keep the best of many.
        (a, i), (b, j) = min(missing)
        candidates = []
        for _ in range(60):
            case = {name: random.randrange(len(factors[name])) for name in names}
            case |= {a: i, b: j}
            candidates.append(case)
        best = max(candidates, key=lambda case: len(pairs(case) & missing))
        missing -= pairs(best)
        cases.append({name: factors[name][number] for name, number in best.items()})
    return cases
