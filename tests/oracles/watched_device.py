"""A pretend accelerator: the `meta` device under a watcher that fails on what a GPU's recorded step
must not do.

The meta device has shapes and no values. So whatever asks it for a value fails by itself: a
synchronisation (`item`, `tolist`), a shape that depends on data (`nonzero`, a boolean index). The
watcher fails on the rest: a tensor on the CPU, and a draw from PyTorch's own generators.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that take their values from a generator's state.
DRAWS = ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "uniform", "dropout")


# Functions that copy values of the host to a device.
UPLOADS = ("tensor", "as_tensor", "from_numpy")


class ForbiddenOnDevice(AssertionError):
    pass


class Watcher(TorchDispatchMode):
    """Counts operations; raises ForbiddenOnDevice for one that may not be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._uploads = {name: getattr(torch, name) for name in UPLOADS}

    def __enter__(self):
        for name in UPLOADS:  # which reach the meta device unseen

            def refuse(values, *args, _name=name, **kwargs):
                if isinstance(values, torch.Tensor) and _name == "as_tensor":
                    return values.to(*args, **kwargs)
                raise ForbiddenOnDevice(f"torch.{_name} makes a tensor from values of the host")

            setattr(torch, name, refuse)
        return super().__enter__()

    def __exit__(self, *error):
        for name, original in self._uploads.items():
            setattr(torch, name, original)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        plain = name.rstrip("_").removesuffix("_like")
        if plain in DRAWS or any(isinstance(v, torch.Generator) for v in kwargs.values()):
            raise ForbiddenOnDevice(f"{name} draws from PyTorch's generator")
        result = func(*args, **kwargs)
        self.operations += 1
        for tensor in tree_leaves((args, kwargs, result)):
            on_host = isinstance(tensor, torch.Tensor) and tensor.device.type != "meta"
            if on_host:
                raise ForbiddenOnDevice(
                    f"{name} has a tensor on the {tensor.device.type}, of shape "
                    f"{tuple(tensor.shape)}"
                )
        return result
