"""What a step takes over a step of training as usual, for studies at equal time.

Measured on digits' shape with the small CNN, one thread, processor time, on 2026-11-22, by
`python -m benchmarks.methods` (benchmarks/README.md says how). The numbers are part of what the
studies declare: those of another day go into a new declaration. On other data they are an
approximation; each study's table has the seconds that its runs took.
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
# ABA with each map; those that average over samples have `SAMPLES` of them.
SAMPLES = 8
LAGGED = 1.11
OF_MAPS: dict[str, float] = {
    "gradient": 1.84, "gradient_x_input": 1.78, "absolute_gradient": 1.79,
    "absolute_gradient_x_input": 1.79, "smoothgrad": 8.24, "smoothgrad_x_input": 8.13,
    "vargrad": 8.61, "integrated_gradients": 7.98, "expected_gradients": 7.79, "occlusion": 3.75,
    "guided_backpropagation": 2.1, "deconvnet": 2.08, "lrp_epsilon": 3.04, "lrp_gamma": 3.07,
    "lrp_z_plus": 3.4, "lrp_alpha_beta": 4.28, "lrp_composite": 3.37, "grad_cam": 1.85,
    "grad_cam_plus_plus": 1.93, "layer_cam": 1.86, "norm_grad": 1.94,
}
# fmt: on
