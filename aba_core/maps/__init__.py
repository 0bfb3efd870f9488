"""The maps, one file a family: functions of (objective, inputs, how maps are made, draws).

What a map can be told beside the fields of `Attribution` are its keyword arguments: in a study
`attribution: {use: "aba_core.maps:integrated_gradients", baseline: mean}`.
"""

from aba_core.maps.backward import (
    deconvnet,
    guided_backpropagation,
    lrp,
    lrp_alpha_beta,
    lrp_composite,
    lrp_gamma,
    lrp_z_plus,
)
from aba_core.maps.gradients import (
    absolute_gradient,
    absolute_gradient_x_input,
    absolute_integrated_gradients,
    absolute_smoothgrad,
    expected_gradients,
    gradient,
    gradient_x_input,
    integrated_gradients,
    smoothgrad,
    smoothgrad_x_input,
    vargrad,
)
from aba_core.maps.layerwise import (
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    norm_grad,
    smooth_grad_cam_plus_plus,
)
from aba_core.maps.occlusion import occlusion

__all__ = [
    "absolute_gradient",
    "absolute_gradient_x_input",
    "absolute_integrated_gradients",
    "absolute_smoothgrad",
    "deconvnet",
    "expected_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_x_input",
    "guided_backpropagation",
    "integrated_gradients",
    "layer_cam",
    "lrp",
    "lrp_alpha_beta",
    "lrp_composite",
    "lrp_gamma",
    "lrp_z_plus",
    "norm_grad",
    "occlusion",
    "smooth_grad_cam_plus_plus",
    "smoothgrad",
    "smoothgrad_x_input",
    "vargrad",
]
