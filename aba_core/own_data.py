"""Data of your own as three splits in standard units, for any of the tasks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aba_core.datasets import Split, Splits, assembled, stratified
from aba_core.quantities import TASKS
from aba_core.sources import DatasetError


# Nine arguments: the data, then what is usually left as it is.
def splits_from(
    x: Any,
    y: Any = None,
    *,
    validation: Any = 0.2,
    test: Any = 0.2,
    seed: int = 0,
    standardise: bool = True,
    class_names: Sequence[str] | None = None,
    name: str = "own",
    task: str = "multiclass",
) -> Splits:
    """Data of your own as three splits, stratified by class, for `train` and `frozen`.

    x, y: tensors or arrays [n, *feature] and [n]; or x alone, a PyTorch Dataset (or a list) of
    pairs (input, label). task: "multiclass"; "multilabel", with y [n, label] of 0 and 1; or
    "regression", with y numbers [n] or [n, output]; the last two are drawn without strata.
    validation, test: the share of the samples drawn for it from `seed`; or that split's own data,
    as a pair (x, y) or a Dataset, where it is fixed already. What is left trains. standardise:
    (x - mean) / std with mean and std of the training samples: one for each column of a table, one
    for each channel of pictures [n, channel, height, width], otherwise one for all. Say no for a
    model that was trained in other units; strengths are then in those units.

    Whole-number labels from 0 stay as they are, so that they fit a trained model's outputs; others
    (names, negative numbers) are numbered in sorted order. `class_names` names all of them, also
    those without samples. Everything is kept in memory, as float32.
    Raises DatasetError: shapes that do not fit, NaN, labels that are no classes, a class without
    training samples.
    """
    if task not in TASKS:
        raise DatasetError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if type(seed) is not int or seed < 0:
        raise DatasetError(f"seed is {seed!r}; allowed: whole numbers from 0")
    shares = {"test": test, "validation": validation}
    arrays = _given_arrays(x, y, shares, task)
    given = {part: labels for part, (_, labels) in arrays.items()}
    if task == "multiclass":
        targets, names = _own_classes(given, class_names)
        strata = targets["train"]
    else:
        targets, names = _own_targets(given, class_names, task)
        strata = np.zeros(len(targets["train"]), dtype=np.int64)

    parts = _parts(arrays, targets, strata, shares, seed)
    if task == "multiclass":
        _refuse_untrained_classes(parts, names)
    _warn_of_channels_last(parts["train"].feature_shape)
    mean, std = torch.zeros(()), torch.ones(())
    if standardise:
        mean, std = _own_units(parts["train"].data)
        parts = {k: replace(v, data=(v.data - mean) / std) for k, v in parts.items()}
    return assembled(
        parts,
        f"{mean.tolist()}/{std.tolist()}",
        name=name,
        subset="own",
        subset_seed=seed,
        class_names=names,
        mean=mean,
        std=std,
        task=task,
    )


def drawn_subset(splits: Splits, size: int, seed: int) -> Tensor:
    """The places of so many training samples, stratified by class and drawn from `seed`.

    Raises DatasetError for a size that is not below the number of training samples, or below two a
    class.
    """
    pool = splits.train
    if type(size) is not int or not 2 * splits.classes <= size < len(pool):
        raise DatasetError(
            f"train_samples is {size!r}; allowed: {2 * splits.classes} (two a class) to "
            f"{len(pool) - 1}, a part of the {len(pool)} training samples"
        )
    drawn, _ = stratified(pool.y.numpy(), size, splits.name, "subset", seed)
    return torch.from_numpy(drawn)


def _given_arrays(
    x: Any, y: Any, shares: dict[str, Any], task: str
) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Inputs and labels of the data to train on, and of each split that is given and not drawn."""
    arrays = {"train": _own_arrays(x, y, "the data", task)}
    for part, given in shares.items():
        if isinstance(given, bool) or not isinstance(given, float | int):
            inputs, labels = (
                given if isinstance(given, tuple) and len(given) == 2 else (given, None)
            )
            arrays[part] = _own_arrays(inputs, labels, part, task)
        elif not 0 < given < 1:
            raise DatasetError(
                f"{part} is {given!r}; allowed: a share between 0 and 1, or the data itself"
            )
    for part, (inputs, _) in arrays.items():
        if inputs.shape[1:] != arrays["train"][0].shape[1:]:
            raise DatasetError(
                f"inputs of {part} have shape {tuple(inputs.shape[1:])}, those to train on "
                f"{tuple(arrays['train'][0].shape[1:])}"
            )
    return arrays


def _parts(
    arrays: dict[str, tuple[Tensor, np.ndarray]],
    targets: dict[str, np.ndarray],
    strata: np.ndarray,
    shares: dict[str, Any],
    seed: int,
) -> dict[str, Split]:
    """The three splits: given, or drawn from the data to train on."""
    data, total = arrays["train"][0], len(arrays["train"][0])
    rest = np.arange(total)
    parts: dict[str, Split] = {}
    for part, share in shares.items():
        if part in arrays:
            parts[part] = Split(arrays[part][0], torch.from_numpy(targets[part]))
            continue
        size = max(1, round(share * total))
        if size >= len(rest):
            raise DatasetError(f"{total} samples are too few for training, validation and test")
        drawn, left = stratified(strata[rest], size, "own", part, seed)
        parts[part] = _own_split(data, targets["train"], rest[drawn])
        rest = rest[left]
    return {**parts, "train": _own_split(data, targets["train"], rest)}


def _refuse_untrained_classes(parts: dict[str, Split], names: tuple[str, ...]) -> None:
    present = {part: set(split.y.tolist()) for part, split in parts.items()}
    absent = sorted(set().union(*present.values()) - present["train"])
    if absent:
        raise DatasetError(
            f"class {names[absent[0]]!r} has no sample to train on; give more samples of it, or "
            "smaller shares to validation and test"
        )


def _own_split(data: Tensor, targets: np.ndarray, at: np.ndarray) -> Split:
    index = torch.from_numpy(at)
    return Split(data[index], torch.from_numpy(targets[at]), index=index)


def _own_arrays(x: Any, y: Any, what: str, task: str) -> tuple[Tensor, np.ndarray]:
    """Inputs as float32 [n, *feature] and labels as an array [n], on the CPU."""
    if y is None:
        if isinstance(x, Tensor | np.ndarray) or not hasattr(x, "__getitem__"):
            raise DatasetError(
                f"{what} is a {type(x).__name__} without labels; needed: x and y, or a Dataset of "
                "pairs (input, label) with a length"
            )
        try:
            pairs = [x[number] for number in range(len(x))]
            _warn_of_random_transforms(x, pairs)
            x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        except (TypeError, IndexError, KeyError) as error:
            raise DatasetError(
                f"{what} ({type(x).__name__}) does not give pairs (input, label) by number: {error}"
            ) from error
    if isinstance(x, str):
        raise DatasetError(f"{what} is the text {x!r:.60}; needed: inputs; aba try reads files")
    if hasattr(x, "toarray"):
        raise DatasetError(f"{what} is a sparse {type(x).__name__}; needed: x.toarray()")
    text = [str(name) for name, kind in getattr(x, "dtypes", {}).items() if kind.kind not in "fiub"]
    if text:
        raise DatasetError(
            f"columns of {what} that hold no numbers: {', '.join(text[:5])}; drop them, or turn "
            "categories into columns of 0 and 1, as pandas.get_dummies does"
        )
    try:
        values = _own_stack(x)
        labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{what} does not stack into one array of numbers: {error}; needed: inputs of one "
            "shape, as tensors or arrays (pictures: add the transform ToTensor)"
        ) from error
    if labels.ndim == 2 and labels.shape[1] == 1 and task != "multilabel":  # a table's column
        labels = labels[:, 0]
    if values.dim() < 2 or len(values) == 0 or values[0].numel() == 0:
        raise DatasetError(f"x of {what} has shape {tuple(values.shape)}; needed: [n, *feature]")
    several = {"multiclass": (1,), "multilabel": (2,), "regression": (1, 2)}[task]
    if labels.ndim not in several or len(labels) != len(values):
        needed = "one label a sample" if task == "multiclass" else f"{task} targets of each sample"
        raise DatasetError(
            f"y of {what} has shape {labels.shape}; needed: {needed}, {len(values)} here"
        )
    finite = torch.isfinite(values).flatten(1).all(1)
    if not bool(finite.all()):
        raise DatasetError(
            f"x of {what} holds NaN, infinite values or numbers beyond 3e38 in "
            f"{int((~finite).sum())} samples (first: "
            f"{int((~finite).nonzero()[0])}); fill or drop them"
        )
    return values, labels


def _warn_of_random_transforms(dataset: Any, pairs: Sequence[Any]) -> None:
    """A warning where a sample is another one when it is read again: here it is read once."""
    if isinstance(dataset, list | tuple):
        return
    with torch.random.fork_rng():
        again = [dataset[number][0] for number in range(min(8, len(pairs)))]
    first = _own_stack([pair[0] for pair in pairs[: len(again)]])
    if not torch.equal(first, _own_stack(again)) and bool(torch.isfinite(first).all()):
        warnings.warn(
            f"{type(dataset).__name__} gives another input each time a sample is read, and here "
            "each is read once: its random transforms stay as first drawn. Pass the data without "
            "them, and make random changes while training, as method='crop' or 'flip'",
            stacklevel=2,
        )


def _own_stack(x: Any) -> Tensor:
    if isinstance(x, list) and x and isinstance(x[0], Tensor):
        x = torch.stack([entry.detach().cpu() for entry in x])
    values = x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    if values.is_complex():
        raise ValueError("complex numbers")
    return values.to(torch.float32)


def _own_classes(
    labels: dict[str, np.ndarray], class_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Labels as class numbers from 0, and the names of all classes."""
    together = np.concatenate([each.astype(object) for each in labels.values()])
    for part, each in labels.items():
        if each.dtype.kind in "fc":
            raise DatasetError(
                f"y of {part} is of type {each.dtype}; needed: whole numbers or names, as "
                "y.astype(int) makes them; for numbers to be predicted, task='regression'"
            )
    lacking = [place for place, label in enumerate(together.tolist()) if label is None]
    if lacking:
        raise DatasetError(
            f"{len(lacking)} samples have no label (first: {lacking[0]}); drop or label them"
        )
    distinct = sorted(set(together.tolist()), key=lambda label: (str(type(label)), label))
    whole = all(isinstance(label, int) and label >= 0 for label in distinct)
    if class_names is not None:
        names = tuple(str(each) for each in class_names)
        known: dict[Any, int] = {each: number for number, each in enumerate(class_names)}
        if whole:
            known = {number: number for number in range(len(names))}
        unknown = [label for label in distinct if label not in known]
        if unknown:
            raise DatasetError(
                f"label {unknown[0]!r} is none of the {len(names)} class_names: {', '.join(names)}"
            )
    elif whole:
        if distinct[-1] >= max(len(together), 2):
            raise DatasetError(
                f"labels go up to {distinct[-1]} for {len(together)} samples; number the classes "
                "from 0, or give class_names"
            )
        names = tuple(map(str, range(distinct[-1] + 1)))
        known = {number: number for number in range(len(names))}
    else:
        names = tuple(map(str, distinct))
        known = {label: number for number, label in enumerate(distinct)}
    if len(names) < 2 or (len(distinct) == 1 and class_names is None):
        raise DatasetError(f"all labels are {distinct[0]!r}; needed: two classes or more")
    numbers = {
        part: np.array([known[label] for label in each.tolist()], dtype=np.int64)
        for part, each in labels.items()
    }
    return numbers, names


def _own_targets(
    given: dict[str, np.ndarray], names: Sequence[str] | None, task: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Targets as numbers, and the names of labels or outputs."""
    for part, each in given.items():
        if each.dtype.kind not in "biuf" or not np.isfinite(each).all():
            raise DatasetError(f"y of {part} is of type {each.dtype}; needed: finite numbers")
        if task == "multilabel" and not np.isin(each, (0, 1)).all():
            raise DatasetError(f"y of {part} holds other numbers than 0 and 1")
        if each.shape[1:] != given["train"].shape[1:]:
            raise DatasetError(f"y of {part} has shape {each.shape}, that to train on others")
    shape = given["train"].shape
    outputs = shape[1] if len(shape) > 1 else 1
    if names is not None and len(names) != outputs:
        raise DatasetError(f"{len(names)} class_names for {outputs} outputs")
    titles = tuple(map(str, names or range(outputs)))
    return {part: each.astype(np.float32) for part, each in given.items()}, titles


def _warn_of_channels_last(shape: tuple[int, ...]) -> None:
    if len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3) and shape[0] == shape[1]:
        warnings.warn(
            f"inputs have shape {shape}, as pictures whose channels are last; channels come first "
            "here, as np.moveaxis(x, 3, 1) puts them",
            stacklevel=3,
        )


def _own_units(train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that broadcast against one input; a constant has deviation 1."""
    over = {2: (0,), 4: (0, 2, 3)}.get(train.dim(), tuple(range(train.dim())))
    mean = train.double().mean(over, keepdim=True)[0]
    std = train.double().std(over, correction=0, keepdim=True)[0]
    std = torch.where(std > 1e-12 * (1 + mean.abs()), std, torch.ones_like(std))
    return mean.float(), std.float()
