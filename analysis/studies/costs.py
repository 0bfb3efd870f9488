"""What a step takes over a step of training as usual, for studies at equal time.

Measured on one thread, in processor time, on 2026-11-22, by `python -m benchmarks.methods`
(benchmarks/README.md says how): methods on digits' shape with the small CNN, maps on each data set
as their study trains there. The numbers are part of what the studies declare: those of another day
go into a new declaration. Where none were measured, those of digits are an approximation; each
study's table has the seconds that its runs took.
"""

from __future__ import annotations

# fmt: off
OF_METHODS: dict[str, float] = {
    "aba": 1.86, "challenger": 1.85, "mendaba": 1.86, "fastaba": 1.87, "fastaba-ce": 1.83,
    "mixup": 1.14, "elements": 1.19, "gaussian-noise": 1.08, "uniform-noise": 1.04,
    "salt-and-pepper": 1.08, "label-smoothing": 1.01, "label-smoothing-others": 1.01,
    "logit-squeezing": 1.01, "maxsup": 1.02, "confidence-penalty": 1.02, "input-dropout": 1.05,
    "guided-dropout": 1.82, "reldrop-pixel": 1.89, "fgsm": 1.78, "pgd": 5.07, "alp": 6.1,
    "lrm": 6.01, "sam": 1.99, "asam": 2.01, "weight-decay": 1.02, "early-stopping": 1.03,
    "cutmix": 1.16, "bc+": 1.16, "vertical-concat": 1.12, "horizontal-concat": 1.11,
    "mixed-concat": 1.2, "random-2x2": 1.12, "vh-mixup": 1.25, "vh-bc+": 1.3,
    "random-square": 1.12, "row-interval": 1.08, "column-interval": 1.08, "rows": 1.13,
    "columns": 1.13, "pixels": 1.15, "noisy-mixup": 1.18, "cutout": 1.06, "random-erasing": 1.17,
    "guided-cutout": 1.87, "random-cutout": 1.12, "reldrop-block": 1.86, "icd": 1.91, "aicd": 1.94,
    "saliencymix": 1.95, "shift": 1.07, "crop": 1.08, "flip": 1.02, "rotation": 1.06,
    "randaugment": 1.17, "word-dropout": 1.01,
}
# ABA with each map, a column for each data set, with the model of its study; maps that average over
# samples have `SAMPLES` of them. Measured on 2026-11-22 by
# `python -m benchmarks.methods --maps --data DATA`, as a chunk of the study trains there: four
# seeds with one map, on texts two.
SAMPLES = 8
MODELS = {
    "digits": "small_cnn", "mnist": "small_cnn", "cifar10": "small_cnn", "news": "text_cnn",
}
_OF_MAPS: dict[str, tuple[float, ...]] = {
    #                               digits  MNIST  CIFAR-10  News
    "lagged":                      ( 1.34,  1.15,  1.18,  1.37),
    "gradient":                    ( 1.86,  1.79,  1.78,  2.13),
    "gradient_x_input":            ( 1.85,  1.78,  1.83,  2.18),
    "absolute_gradient":           ( 1.86,  1.78,  1.80,  2.17),
    "absolute_gradient_x_input":   ( 1.88,  1.81,  1.97,  2.24),
    "smoothgrad":                  ( 8.83,  9.12, 10.95, 15.25),
    "smoothgrad_x_input":          ( 8.75,  9.09, 11.65, 15.79),
    "vargrad":                     ( 9.08,  9.78, 12.02, 16.73),
    "integrated_gradients":        ( 5.26,  7.05,  7.57, 10.49),
    "expected_gradients":          ( 9.46,  8.48,  9.55, 12.88),
    "occlusion":                   ( 6.07, 10.30, 13.11,  5.81),
    "guided_backpropagation":      (10.94,  5.16,  3.59,  4.53),
    "deconvnet":                   (10.85,  5.04,  3.41,  4.27),
    "lrp_epsilon":                 (12.47, 12.60, 10.57,  6.21),
    "lrp_gamma":                   (12.08, 10.78,  8.83,  6.48),
    "lrp_z_plus":                  (13.76, 14.85, 10.57, 11.67),
    "lrp_alpha_beta":              (18.81, 25.17, 17.61, 17.31),
    "lrp_composite":               (13.79, 14.94, 10.02, 11.32),
    "grad_cam":                    ( 8.09,  4.16,  3.23,  4.22),
    "grad_cam_plus_plus":          ( 9.00,  5.22,  4.76,  4.81),
    "layer_cam":                   ( 7.73,  4.46,  3.24,  4.57),
    "norm_grad":                   ( 8.55,  4.95,  4.13,  4.51),
}
# fmt: on


def of_maps(dataset: str) -> dict[str, float]:
    """{map, or lagged: what a step of ABA with it takes}, as measured on the data set, or on digits
    where `MODELS` lacks it."""
    place = list(MODELS).index(dataset) if dataset in MODELS else 0
    return {name: measured[place] for name, measured in _OF_MAPS.items()}
