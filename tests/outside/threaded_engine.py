"""An engine that is no part of the package: one thread, the last chunk first, as if sent away.

What is sent to another machine is pickled, so chunks and rows are pickled here too.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor

from analysis.engines import train_chunk


def train_far_away(message: bytes) -> bytes:
    return pickle.dumps(train_chunk(pickle.loads(message)))


def in_a_thread(chunks, report):
    with ThreadPoolExecutor(1) as pool:
        for chunk in reversed(chunks):
            yield chunk, pickle.loads(pool.submit(train_far_away, pickle.dumps(chunk)).result())


def forgets_a_run(chunks, report):
    for chunk in chunks:
        yield chunk, {"runs": train_chunk(chunk)["runs"][1:]}


def gives_rows_alone(chunks, report):
    for chunk in chunks:
        yield train_chunk(chunk)


NO_ENGINE = 3
