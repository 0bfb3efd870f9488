"""What each regulariser is tried with when it is tuned, and which ones fit which data.

Plain tables: a kind, the field that is tuned, and its values in the order in which they are taken,
so that every class of arms can be tried with as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aba_core.arms import METHODS, PLACEBO_TITLES, PUBLISHED_METHODS, VANILLA
from analysis.study import Settings

Tried = dict[str, tuple[str, tuple[float, ...]]]

_SHARES = (0.1, 0.25, 0.5, 0.05, 0.75, 0.9)
_SIDES = (0.2, 0.3, 0.5, 0.1, 0.4, 0.7)
_ALPHAS = (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)
_SMALL = (0.05, 0.1, 0.2, 0.02, 0.3, 0.4)
_NOISES = (0.1, 0.2, 0.5, 0.05, 1.0, 2.0)
_BETAS = (3e-4, 1e-3, 3e-3, 1e-4, 1e-2, 3e-2)
_MIXES = (
    *("bc+", "vertical-concat", "horizontal-concat", "mixed-concat", "random-2x2", "vh-mixup"),
    *("vh-bc+", "random-square", "row-interval", "column-interval", "rows", "columns", "pixels"),
    *("elements", "noisy-mixup"),
)
# The field that is tuned and what it is tried with; the first so many as there are strengths.
ANYWHERE: Tried = {
    "mixup": ("alpha", _ALPHAS),
    "elements": ("alpha", _ALPHAS),
    "gaussian-noise": ("sd", _NOISES),
    "uniform-noise": ("width", _NOISES),
    "salt-and-pepper": ("p", (0.02, 0.05, 0.1, 0.01, 0.2, 0.3)),
    "label-smoothing": ("epsilon", _SMALL),
    "label-smoothing-others": ("epsilon", _SMALL),
    "logit-squeezing": ("beta", _BETAS),
    "maxsup": ("alpha", (0.05, 0.1, 0.2, 0.02, 0.5, 1.0)),
    "confidence-penalty": ("beta", (0.05, 0.1, 0.2, 0.02, 0.5, 1.0)),
    "input-dropout": ("p", _SMALL),
    "guided-dropout": ("p", _SMALL),
    "reldrop-pixel": ("p", _SHARES),
    "fgsm": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "pgd": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "alp": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "lrm": ("epsilon", (0.05, 0.1, 0.2, 0.02, 0.3, 0.5)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.01, 0.2, 0.5)),
    "asam": ("rho", (0.2, 0.5, 1.0, 0.1, 2.0, 4.0)),
    "weight-decay": ("rate", (*_BETAS[:5], 0.1)),
    "early-stopping": ("every", (5, 10, 20, 2, 50, 100)),
}
OF_PICTURES: Tried = {
    "cutmix": ("alpha", _ALPHAS),
    **{kind: ("alpha", _ALPHAS) for kind in _MIXES if kind not in ANYWHERE},
    "cutout": ("side", _SIDES),
    "random-erasing": ("p", _SHARES),
    "guided-cutout": ("side", _SIDES),
    "random-cutout": ("side", _SIDES),
    "reldrop-block": ("p", _SHARES),
    "icd": ("share", _SMALL),
    "aicd": ("share", _SMALL),
    "saliencymix": ("alpha", _ALPHAS),
    "shift": ("most", (0.0625, 0.125, 0.2, 0.03, 0.25, 0.3)),
    "crop": ("smallest", (0.8, 0.64, 0.5, 0.9, 0.4, 0.3)),
    "flip": ("p", _SHARES),
    "rotation": ("degrees", (5.0, 15.0, 30.0, 2.0, 20.0, 45.0)),
    "randaugment": ("magnitude", (3.0, 6.0, 9.0, 1.0, 12.0, 15.0)),
}
OF_TEXTS: Tried = {
    "word-dropout": ("p", _SMALL),
    **{kind: OF_PICTURES[kind] for kind in ("bc+", "vertical-concat", "rows", "pixels")},
    "row-interval": ("alpha", _ALPHAS),
    "noisy-mixup": ("alpha", _ALPHAS),
}
OF_TABLES: Tried = {"noisy-mixup": ("alpha", _ALPHAS)}
HAND_CRAFTED = ("shift", "crop", "flip", "rotation", "randaugment")
# Neither a map nor a second pass, and nothing that is made for pictures by hand.
CHEAP = ("mixup", "gaussian-noise", "label-smoothing", "input-dropout", "weight-decay")
# What these mix follows from the picture's sides alone: there is nothing to tune.
UNTUNED = ("random-2x2", "random-square", "row-interval", "column-interval")
# The five comparators of highest mean validation accuracy in `comparators` on digits, 20 subsets,
# each tuned on seeds of its own: 95.5, 93.7, 93.4, 93.3 and 93.3 (Vanilla 90.9). They were chosen
# for that, so that their accuracy there is no evidence; what a card says of them is.
BEST_ON_DIGITS = ("randaugment", "lrm", "vh-bc+", "random-2x2", "horizontal-concat")
# Layers after which methods act as well: the outputs of the two blocks or hidden layers.
HIDDEN = {"small_cnn": ("2", "5"), "mlp": ("2", "4")}
# What `tuned` compares with; dropout hides inputs there.
FEW: Tried = {
    **{kind: {**ANYWHERE, **OF_PICTURES}[kind] for kind in ("mixup", "cutmix", "cutout")},
    "label-smoothing": ANYWHERE["label-smoothing"],
    "dropout": ("p", (0.1, 0.2, 0.3, 0.05, 0.4, 0.5)),
    "sam": ANYWHERE["sam"],
}
HIDDEN_SHARES = _SMALL

# --- the rest ------------------------------------------------------------------------------------

ALL = "All"
NOISE = f"{ALL}, {PLACEBO_TITLES['gaussian']}"
VANILLA_NORM, ALL_NORM = (f"{name}, batch norm" for name in (VANILLA, ALL))


def title_of(kind: str) -> str:
    return METHODS[kind].title


def with_all(title: str) -> str:
    return f"{title}, with All"


@dataclass(frozen=True)
class Rest:
    """A method that `comparators` leaves out. method: its plain data. field: tuned, with values.
    joins: whether it is tried with All as well. norm: whether its model has batch norm. inputs:
    what it is made for; () for anything."""

    title: str
    method: Any
    field: str
    values: tuple[float, ...]
    joins: bool = True
    norm: bool = False
    inputs: tuple[str, ...] = ()


def rest(aba: dict[str, Any], layers: tuple[str, ...], inputs: str) -> tuple[Rest, ...]:
    """The methods that `comparators` leaves out: in parts of the training, at hidden layers, in
    several copies, of batch norm, and those that came later. aba: the plain data of All."""
    place = {"site": layers[-1]} if layers else {}
    dropout, early, late = {"kind": "dropout", **place}, {"end": 0.5}, {"start": 0.5, "end": 1.0}
    held = ("method.p", _SMALL)
    strength = ("method.strength", ())
    found = [
        Rest("Early dropout", {"kind": "during", "method": dropout, **early}, *held, joins=False),
        Rest("Late dropout", {"kind": "during", "method": dropout, **late}, *held, joins=False),
        Rest("Early All", {"kind": "during", "method": aba, **early}, *strength, joins=False),
        Rest("Late All", {"kind": "during", "method": aba, **late}, *strength, joins=False),
        Rest("All, two copies", _copies(aba), *strength, joins=False),
        Rest(
            "Gaussian noise, two copies",
            _copies({"kind": "gaussian-noise"}),
            *("method.sd", _NOISES),
            joins=False,
        ),
        Rest("RelDrop, pixels, LRP", {"kind": "reldrop-pixel-lrp"}, "p", _SHARES),
        Rest("RelDrop, block, LRP", {"kind": "reldrop-block-lrp"}, "p", _SHARES, inputs=PICTURES),
        Rest("Puzzle-like mixing", {"kind": "puzzlemix"}, "alpha", _ALPHAS, inputs=PICTURES),
        Rest(
            "KeepAugment, rotation",
            {"kind": "keepaugment", "method": {"kind": "rotation"}},
            *("method.degrees", OF_PICTURES["rotation"][1]),
            inputs=PICTURES,
        ),
        Rest(
            "Ghost batch norm", {"kind": "ghost-batch-norm", "size": 5}, "size", _PIECES, norm=True
        ),
        Rest("Batch group norm", {"kind": "batch-group-norm"}, "size", _GROUPS, norm=True),
        Rest("Example weighing", {"kind": "example-weighing"}, "alpha", _SMALL, norm=True),
        Rest("Weight decay of γ and β", {"kind": "norm-decay"}, "rate", _BETAS, norm=True),
        Rest("AdvProp", {"kind": "advprop"}, *ANYWHERE["fgsm"], norm=True),
    ]
    found += [
        Rest(f"Dropout at layer {layer}", {"kind": "dropout", "site": layer}, "p", _SMALL, False)
        for layer in layers
    ]
    if layers:
        drawn = {"kind": "any-site", "sites": ["input", *layers]}
        found += [
            Rest("Manifold mixup", {**drawn, "method": {"kind": "mixup"}}, "method.alpha", _ALPHAS,
                 joins=False),
            Rest("All at a layer drawn at each step", {**drawn, "method": aba}, *strength,
                 joins=False),
        ]  # fmt: skip
    return tuple(one for one in found if not one.inputs or inputs in one.inputs)


PICTURES = ("pictures",)
_PIECES = (2, 5, 10, 3, 4, 6)  # samples; the batches of all settings hold twice as many
_GROUPS = (2, 4, 8, 16)  # channels; divisors of every layer's


def _copies(method: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "copies", "copies": 2, "method": method}


# --- what fits the data --------------------------------------------------------------------------


def compared(settings: Settings) -> Tried:
    """The comparators that fit the data, each with what it is tried with."""
    of_data = {"pictures": OF_PICTURES, "texts": OF_TEXTS, "tables": OF_TABLES}
    return {**ANYWHERE, **of_data[settings.inputs]}


def left_out(settings: Settings) -> str:
    """Which methods do not apply to the data, and why, in a sentence or two."""
    there = compared(settings)
    titles = [METHODS[kind].title for kind in {**OF_PICTURES, **OF_TEXTS} if kind not in there]
    made_for = {"pictures": "texts", "texts": "pictures", "tables": "pictures or texts"}
    return _said(settings, titles, made_for[settings.inputs])


def left_out_of_rest(settings: Settings) -> str:
    """The same for the methods of `rest`; "" where all apply."""
    if settings.inputs != "pictures":
        kinds = ("reldrop-block-lrp", "puzzlemix", "keepaugment")
        return _said(settings, [METHODS[kind].title for kind in kinds], "pictures")
    return _said(settings, [], "")


def _said(settings: Settings, titles: list[str], made_for: str) -> str:
    said = []
    if titles:
        named = "; ".join(titles)  # a title may hold a comma
        said.append(f"Not compared on {settings.inputs}, since made for {made_for}: {named}.")
    if not layers_of(settings):
        said.append(
            f"{settings.config['model']} has no chain of hidden layers for methods to act at: "
            f"{METHODS['any-site'].title.lower()} is left out."
        )
    return " ".join(said)


def layers_of(settings: Settings) -> tuple[str, ...]:
    """Hidden layers that methods act at; () where the model has none in a row."""
    return HIDDEN.get(settings.config["model"], ())


# Forward and backward passes a step where they are more than one, as `Method.passes` counts them.
PASSES: dict[str, float] = {
    **dict.fromkeys(("aba", *PUBLISHED_METHODS), 2.0),
    **dict.fromkeys(("guided-dropout", "guided-cutout", "reldrop-block", "reldrop-pixel"), 2.0),
    **dict.fromkeys(("icd", "aicd", "saliencymix", "fgsm", "sam", "asam"), 2.0),
    **{"pgd": 6.0, "alp": 7.0, "lrm": 7.0},
}
