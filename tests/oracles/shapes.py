"""The type checker of the test run: shapes and element types of tensors, and nothing else.

Plain Python types are left alone: an int is a fine strength, and a bad name must reach the error
message that the package itself gives for it.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray


def _says_a_shape(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(_says_a_shape(part) for part in get_args(annotation))


def check_shapes(function: Callable) -> Callable:
    """`function`, checked by beartype for those annotations that name a shape."""
    function.__annotations__ = {
        name: annotation if _says_a_shape(annotation) else Any
        for name, annotation in function.__annotations__.items()
    }
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
