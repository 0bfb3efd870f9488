"""Models of torchvision and timm by name, and pretrained weights from a file.

Both libraries are optional (extra `vision`). Nothing is downloaded: models start at random, or from
a file whose hash the study names.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aba_core.architecture import first_line
from aba_core.identity import meant

_log = logging.getLogger("aba_core")
LIBRARIES = ("torchvision", "timm")
# Options without which torchvision's classifiers return more than logits while they train, or warn.
_PLAIN = {"aux_logits": False, "init_weights": True}
_OPTIONS: dict[str, dict[str, Any]] = {"googlenet": _PLAIN, "inception_v3": _PLAIN}
LEAST = 0.5  # of a model's parameters: weights that fill less are those of another model


def of_library(input_shape: tuple[int, ...], classes: int, *, library: str, name: str) -> nn.Module:
    """A model of torchvision or timm with random weights: {use: "aba_core.libraries:of_library",
    library: torchvision, name: resnet50}.

    Vision transformers are made for the size of the inputs. Raises ValueError where the library is
    not installed or fits another PyTorch, and for names and inputs that it does not have or take.
    """
    if library not in LIBRARIES:
        raise ValueError(
            f"unknown library {library!r}{meant(library, LIBRARIES)}; known: {', '.join(LIBRARIES)}"
        )
    if len(input_shape) != 3:
        raise ValueError(
            f"model {name!r} of {library} takes pictures [channel, height, width]; the inputs have "
            f"shape {tuple(input_shape)}"
        )
    build = _of_timm if library == "timm" else _of_torchvision
    try:
        return build(tuple(input_shape), classes, name)
    except AssertionError as error:
        raise ValueError(
            f"model {name!r} of {library} refuses inputs of shape {tuple(input_shape)}: {error}"
        ) from error


def _of_torchvision(shape: tuple[int, ...], classes: int, name: str) -> nn.Module:
    models = imported("torchvision", f"model {name!r}").models
    _check_name("torchvision", name, models.list_models(module=models))
    if shape[0] != 3:
        raise ValueError(
            f"model {name!r} of torchvision takes pictures of 3 channels; the inputs have "
            f"{shape[0]}; models of timm take any number"
        )
    options = dict(_OPTIONS.get(name, {}))
    if name.startswith("vit"):
        if shape[1] != shape[2]:
            raise ValueError(
                f"model {name!r} of torchvision takes square pictures; the inputs are "
                f"{shape[1]}×{shape[2]}"
            )
        options["image_size"] = shape[2]
    return models.get_model(name, weights=None, num_classes=classes, **options)


def _of_timm(shape: tuple[int, ...], classes: int, name: str) -> nn.Module:
    timm = imported("timm", f"model {name!r}")
    _check_name("timm", name.partition(".")[0], timm.list_models())
    options: dict[str, Any] = {}
    sized = timm.get_pretrained_cfg(name)
    if sized is not None and sized.fixed_input_size:
        options["img_size"] = shape[1:]
    return timm.create_model(name, num_classes=classes, in_chans=shape[0], **options)


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        listed = f"see {library}'s list_models()"
        raise ValueError(f"unknown model {name!r} of {library}{meant(name, known)}; {listed}")


def imported(library: str, what: str) -> Any:
    """An optional library. what: that needs it. Raises ValueError where it is not installed, or
    where its compiled part was built for another PyTorch."""
    try:
        return __import__(library)
    except ImportError as error:
        raise ValueError(
            f"{what} needs {library}, which is not installed; install 'aba-toolkit[vision]'"
        ) from error
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise ValueError(
            f"{what} needs {library}, which does not load beside PyTorch {torch.__version__} "
            f"({error}); install torch and torchvision from the same index, as "
            "https://download.pytorch.org/whl/cpu"
        ) from error


# --- pretrained weights --------------------------------------------------------------------------


def pretrained(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    model: str,
    weights: str,
    sha256: str,
    batch_norm: bool = True,
) -> nn.Module:
    """A model by name that starts from weights in a file: {use: "aba_core.libraries:pretrained",
    model: resnet18, weights: FILE, sha256: HASH}.

    model: a name of `models.MODELS`, or "torchvision:NAME" or "timm:NAME". The file holds a state
    dict, as `torch.save(model.state_dict(), FILE)` writes it, or is one of safetensors. Weights of
    other names or shapes, as of a classifier for other classes, are left at their random start,
    which the log says. Position embeddings of vision transformers are resized.
    Raises ValueError for a file that is not there, has another hash, holds no weights, or fills
    less than half of the parameters.
    """
    from aba_core.models import build_model

    library, _, name = model.rpartition(":")
    if library:
        built = of_library(input_shape, classes, library=library, name=name)
    else:
        built = build_model(model, input_shape, classes, batch_norm)
    state = _resized(built, _state(weights, sha256))
    own = built.state_dict()
    fitting = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    parameters = {n: value.numel() for n, value in built.named_parameters()}
    left = [n for n in parameters if n not in fitting]
    filled = 1 - sum(parameters[n] for n in left) / max(1, sum(parameters.values()))
    if filled < LEAST:
        raise ValueError(
            f"weights {weights} fill {filled:.0%} of the parameters of {model!r}; needed: at least "
            f"{LEAST:.0%}, as of a file of the same model"
        )
    _tell(
        f"weights {weights} fill {filled:.1%} of the parameters of {model!r}; "
        f"at random start: {_listed(left)}; in the file alone: {_listed(sorted({*state} - {*own}))}"
    )
    built.load_state_dict({**own, **fitting})
    return built


@lru_cache  # models are built often, and this is said once
def _tell(message: str) -> None:
    _log.info(message)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"


def _state(weights: str, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file of this hash, by name."""
    path = Path(weights).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read weights {weights}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"weights {weights} have sha256 {digest}; asked for: {sha256}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: Any = load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ValueError(
            f"weights {weights} need safetensors, which is not installed; install "
            "'aba-toolkit[vision]'"
        ) from error
    except Exception as error:
        raise ValueError(f"weights {weights} cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"weights {weights} hold no state dict; needed: a file as "
            "torch.save(model.state_dict(), FILE) writes it"
        )
    return state


def _resized(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a vision transformer, whose position embeddings are made for this model's size."""
    own, wanted = model.state_dict(), dict(state)
    if _other_shape("encoder.pos_embedding", own, state):
        vit = imported("torchvision", "weights").models.vision_transformer
        wanted = vit.interpolate_embeddings(model.image_size, model.patch_size, wanted)
    if _other_shape("pos_embed", own, state) and hasattr(model, "patch_embed"):
        imported("timm", "weights")
        from timm.layers import resample_abs_pos_embed

        wanted["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"],
            list(model.patch_embed.grid_size),
            num_prefix_tokens=model.num_prefix_tokens,
        )
    return wanted


def _other_shape(name: str, own: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return name in own and name in state and own[name].shape != state[name].shape
