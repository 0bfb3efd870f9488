"""A stranger's rules, as in a file of their own: nothing in the package names it."""

from analysis.hypothesis import Hypothesis
from analysis.rules import Compare, Ruling, at_least


def majority(hypothesis: Hypothesis, compare: Compare) -> Ruling:
    """More than half of the comparisons must hold."""
    return at_least(len(hypothesis.comparisons) // 2 + 1, hypothesis, compare)


def first_decides(hypothesis: Hypothesis, compare: Compare) -> Ruling:
    """The first comparison is the claim; the others must only not be refuted."""
    table = compare(1)
    verdict = str(table["verdict"].iloc[0])
    if verdict == "supported" and (table["verdict"] == "refuted").any():
        verdict = "inconclusive"
    return Ruling(verdict, table, 0, "the first of several")


def forgetful(hypothesis: Hypothesis, compare: Compare) -> str:
    """Not a rule: it gives no ruling."""
    return "supported"


NOT_A_RULE = 3
