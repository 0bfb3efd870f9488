"""The plainest engine: one chunk after the other, here."""

from collections.abc import Callable, Iterator, Sequence

from analysis.engines import ChunkRows, train_chunk
from analysis.plan import Chunk


def here(
    chunks: Sequence[Chunk], report: Callable[[int], None]
) -> Iterator[tuple[Chunk, ChunkRows]]:
    for chunk in chunks:
        yield chunk, train_chunk(chunk)
