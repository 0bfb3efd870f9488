"""What of a study this runner trains: chunks that nobody has finished and no other runner holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from analysis import results as store
from analysis.plan import Chunk, Plan
from analysis.store import files
from analysis.store.leases import Leases

# Seconds between two looks at what other runners hold.
_LOOK = 1.0


class Share(Sequence[Chunk]):
    """The unfinished chunks of a plan. One is claimed when an iteration comes to it, and passed
    over where another runner holds it; what has been finished by then is left out of it.

    reused: runs that were finished at the start. elsewhere: those that others finished since.
    """

    def __init__(self, plan: Plan, results: Path, leases: Leases, look: float = _LOOK) -> None:
        self._plan, self._results, self._leases, self._look = plan, results, leases, look
        self._kind = plan.chunks[0].kind if plan.chunks else "runs"
        self._claimed: dict[str, set[str]] = {}  # of chunks held: keys that are to come
        self._mine: set[tuple[str, int]] = set()
        self._files = set(files.names(results / self._kind, ".parquet"))
        known, _ = store.runs_in_short(results, self._kind)
        self.finished = {plan.keys[key] for key in set(known["key"]) & set(plan.keys)}
        self.reused = len(self.finished)
        self._open = [chunk for chunk in plan.chunks if self._rest(chunk).runs]
        self._said: set[str] = set()
        self._passed_on = True  # every chunk was taken, or held by another

    @property
    def elsewhere(self) -> int:
        return len(self.finished - self._mine) - self.reused

    @property
    def lacking(self) -> int:
        """Runs that nobody has finished."""
        return sum(len(self._rest(chunk).runs) for chunk in self._open)

    def keep(self, written: Chunk) -> None:
        """The runs of a chunk, or of a part of it, are written; one that is whole goes out of our
        hands."""
        keys = {key for _, _, key in written.runs}
        self._files.add(f"{written.name}.parquet")
        runs = {self._plan.keys[key] for key in keys if key in self._plan.keys}
        self._mine |= runs
        self.finished |= runs
        for name, to_come in list(self._claimed.items()):
            to_come -= keys
            if not to_come:
                del self._claimed[name]
                self._leases.release(name)

    def wait(self) -> bool:
        """Whether there is more to train, after waiting for what other runners hold. Chunks that
        an engine took and did not give back are not given to it again."""
        for name in self._claimed:
            self._leases.release(name)
        forgotten, self._claimed = set(self._claimed), {}
        while self._passed_on:
            self._refresh()
            self._open = [
                chunk
                for chunk in self._open
                if chunk.name not in forgotten and self._rest(chunk).runs
            ]
            holders = list(self._holders())
            if len(holders) < len(self._open) or not self._open:
                self._passed_on = False
                return bool(self._open)
            for owner in set(holders) - self._said:
                held = holders.count(owner)
                what = f"{held} chunk{'s' * (held > 1)} of {owner}"
                print(f"waiting for {what}", file=sys.stderr, flush=True)
                self._said.add(owner)
            time.sleep(self._look)
        return False  # the engine did not want them all

    def _holders(self) -> Iterator[str]:
        """Who holds each of the chunks, up to the first that is free."""
        for chunk in self._open:
            holder = self._leases.holder(chunk.name)
            if holder is None:
                return
            yield str(holder)

    # Engines see a sequence of chunks.

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Chunk]:
        return self._taken(self._open)

    def __reversed__(self) -> Iterator[Chunk]:
        return self._taken(self._open[::-1])

    @overload
    def __getitem__(self, place: int) -> Chunk: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, place: int | slice) -> Chunk | Sequence[Chunk]:
        """To look at: nothing is claimed."""
        if isinstance(place, slice):
            return [self._rest(chunk) for chunk in self._open[place]]
        return self._rest(self._open[place])

    def _taken(self, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            # The lease has the name of the whole chunk, whoever has finished a part of it.
            if not self._rest(chunk).runs or not self._leases.claim(chunk.name):
                continue
            self._refresh()  # rows are written before their lease is released
            rest = self._rest(chunk)
            if rest.runs:
                self._claimed[chunk.name] = {key for _, _, key in rest.runs}
                yield rest
            else:
                self._leases.release(chunk.name)
        self._passed_on = True

    def _rest(self, chunk: Chunk) -> Chunk:
        return replace(chunk, runs=tuple(r for r in chunk.runs if r[:2] not in self.finished))

    def _refresh(self) -> None:
        """Look at the store again: at files that were not there before, and are not ours."""
        present = set(files.names(self._results / self._kind, ".parquet"))
        keys = self._plan.keys
        for name in present - self._files:
            new = store.keys_in(self._results, self._kind, name) & set(keys)
            self.finished |= {keys[key] for key in new}
        self._files |= present
