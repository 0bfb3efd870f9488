"""Variance components again: sums over runs and samples, one after the other."""

from itertools import product


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def variance(values: list[float]) -> float:
    centre = mean(values)
    return sum((value - centre) ** 2 for value in values) / (len(values) - 1)


def components(correct: list[list[list[float]]]) -> dict[str, float]:
    """correct[subset][seed][sample] → variances of one run's accuracy."""
    subsets, seeds, samples = len(correct), len(correct[0]), len(correct[0][0])
    run = [[mean(correct[s][r]) for r in range(seeds)] for s in range(subsets)]
    within = mean([variance(run[s]) for s in range(subsets)])
    between = variance([mean(run[s]) for s in range(subsets)])
    of_one_sample = mean(
        [
            variance([correct[s][r][i] for r in range(seeds)])
            for s, i in product(range(subsets), range(samples))
        ]
    )
    residual = max(0.0, (of_one_sample - within) / (samples - 1))
    in_subset = [
        [mean([correct[s][r][i] for r in range(seeds)]) for s in range(subsets)]
        for i in range(samples)
    ]
    blur = mean([variance(values) for values in in_subset]) - between
    images = variance([mean(values) for values in in_subset]) - blur / subsets
    return {
        "subset": max(0.0, between - within / seeds),
        "seed": max(0.0, within - residual),
        "images": max(0.0, images / samples),
        "residual": residual,
    }
