"""A pretend GPU of little memory, for the engine: it fails as a real one does while a step is
recorded, and a process in which it failed is of no use any more."""

import os

import torch

_broken = False
ROOM = 2  # runs


def named() -> tuple[str, float]:
    """Free memory that the engine believes in."""
    return "made up", 1e15


def train_in_little_room(chunk, count):
    """Rows without training; (process, runs) tells who made them."""
    global _broken
    if _broken:
        raise ValueError("this process was to be left alone")
    if len(chunk.runs) > ROOM:
        _broken = True
        raise torch.AcceleratorError(
            "CUDA error: operation failed due to a previous error during capture\n(and more)"
        )
    count(10 * len(chunk.runs))
    return {"runs": [{"key": key, "seconds": 50.0, "pid": os.getpid()} for _, _, key in chunk.runs]}


def end_in_the_middle(chunk, count):
    """A process that the system ends."""
    if len(chunk.runs) > 1:
        os._exit(9)
    return {"runs": [{"key": key, "seconds": 1.0} for _, _, key in chunk.runs]}


def take_long(chunk, count, seconds=50.0):
    return {"runs": [{"key": key, "seconds": seconds} for _, _, key in chunk.runs]}


def be_quick(chunk, count):
    return take_long(chunk, count, seconds=1e-6)


def never_fit(chunk, count):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def find_nothing_wrong_with_memory(chunk, count):
    raise ValueError("learning_rate is 'much'")


def train_on_a_share(chunk, count):
    """Real training on a real GPU of which only a share may be used."""
    from analysis.engines import train_chunk

    torch.cuda.set_per_process_memory_fraction(float(os.environ["ABA_TEST_SHARE"]))
    return train_chunk(chunk, count)
