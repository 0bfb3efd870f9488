"""Declarations are events: nothing declared is lost, whatever the order of writers' steps."""

import itertools
import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from aba_core.arms import Arm
from analysis.results import SHIPPED, declarations, declare
from analysis.store import declarations as events
from analysis.store import files
from analysis.study import Study

ARMS = (Arm.of("a"), Arm.of("b"))


def study(*seeds: int) -> Study:
    return Study(name="s", dataset="digits", arms=ARMS, seeds=seeds)


def keys(*seeds: int) -> dict[str, tuple[str, int]]:
    return {f"{arm.name}{seed}": (arm.name, seed) for arm in ARMS for seed in seeds}


def writer(folder: Path, *seeds: int) -> Callable[[], object]:
    return lambda: declare(folder, study(*seeds), keys(*seeds))


class Turns:
    """Writers in threads of their own, of which one at a time takes one step on the file system.

    order: whose turn it is. A step is a listing of the declarations, or a file getting its name:
    all else is seen by nobody but the writer. A writer whose turns are over stops where it is, as
    if killed; the others go on.
    """

    def __init__(self, order: Sequence[int], writers: Sequence[Callable[[], object]]) -> None:
        self.order, self.place, self.steps = order, 0, [0] * len(writers)
        self.changed = threading.Condition()
        self.running = set(range(len(writers)))
        self.threads = [
            threading.Thread(target=self._write, args=(n, w), name=str(n), daemon=True)
            for n, w in enumerate(writers)
        ]

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.place >= len(self.order) or not self.running, timeout=60
            )
        # All of them: one that is slow to find its turns over would take one of the next order's.
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def _write(self, number: int, writer: Callable[[], object]) -> None:
        try:
            writer()
        except Killed:
            pass
        finally:
            with self.changed:
                self.running.discard(number)
                self.changed.notify_all()

    def step(self, do: Callable[[], object]) -> object:
        """Wait for one's turn, take it."""
        number = int(threading.current_thread().name)
        with self.changed:
            assert self.changed.wait_for(lambda: self._next() in (number, None), timeout=60)
            if self._next() is None:
                raise Killed
            try:
                return do()
            finally:
                self.steps[number] += 1
                self.place += 1
                self.changed.notify_all()

    def _next(self) -> int | None:
        """Whose turn it is; the turns of a writer that is done are skipped."""
        while self.place < len(self.order) and self.order[self.place] not in self.running:
            self.place += 1
        return self.order[self.place] if self.place < len(self.order) else None


class Killed(BaseException):
    """Ends a writer between two of its steps."""


def interleavings(*steps: int) -> Iterator[tuple[int, ...]]:
    """Every order of so many steps of each writer."""
    if not any(steps):
        yield ()
    for number, left in enumerate(steps):
        if left:
            rest = (n - (place == number) for place, n in enumerate(steps))
            yield from ((number, *order) for order in interleavings(*rest))


@pytest.fixture
def in_turns(monkeypatch):
    """Runs writers so that each listing of declarations and each new name is a step."""
    current: list[Turns] = []
    names, move = files.names, files.move

    def stepping(do, *arguments):
        if not threading.current_thread().name.isdigit():
            return do(*arguments)
        return current[-1].step(lambda: do(*arguments))

    def listing(folder, suffix):
        of_declarations = folder.name == "studies"
        return stepping(names, folder, suffix) if of_declarations else names(folder, suffix)

    monkeypatch.setattr(files, "names", listing)
    monkeypatch.setattr(files, "move", lambda *paths: stepping(move, *paths))
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)

    def run(order: Sequence[int], writers: Sequence[Callable[[], object]]) -> list[int]:
        current.append(Turns(order, writers))
        current[-1].run()
        return current[-1].steps

    return run


def check(folder: Path, *seeds: int, entries: int) -> None:
    (declaration,) = declarations(folder)
    assert declaration.study.seeds == tuple(sorted(seeds))
    assert declaration.keys == keys(*seeds)
    assert len(declaration.declared) == entries
    times = [entry["at"] for entry in declaration.declared]
    assert times == sorted(times)


# A declaration's steps: list what is declared; name the event and the manifest's line; list again.
STEPS = 4


def test_nothing_is_lost_in_any_interleaving_of_two_writers(tmp_path, in_turns):
    orders = set(interleavings(STEPS, STEPS))
    assert len(orders) == 70
    for number, order in enumerate(sorted(orders)):
        folder = tmp_path / str(number)
        declare(folder, study(0), keys(0))
        steps = in_turns(
            order,
            [
                writer(folder, 0, 1, 2),
                writer(folder, 2, 3),
            ],
        )
        assert steps == [STEPS, STEPS]
        check(folder, 0, 1, 2, 3, entries=3)


@pytest.mark.slow
def test_nothing_is_lost_in_any_interleaving_of_three_writers(tmp_path, in_turns):
    orders = set(interleavings(3, 3, 3))
    assert len(orders) == 1680
    for number, order in enumerate(sorted(orders)):
        folder = tmp_path / str(number)
        writers = [writer(folder, *seeds) for seeds in ((0, 1), (2, 3), (4,))]
        in_turns(order, writers)  # each is stopped before it lists again
        check(folder, 0, 1, 2, 3, 4, entries=3)


@pytest.mark.parametrize("done", range(STEPS))
def test_a_writer_killed_between_any_two_steps_takes_nothing_with_it(tmp_path, in_turns, done):
    for number, order in enumerate(sorted(set(interleavings(done, STEPS)))):
        folder = tmp_path / str(number)
        in_turns(
            order,
            [
                writer(folder, 0, 1),
                writer(folder, 2, 3),
            ],
        )
        seeds = (0, 1, 2, 3) if done >= 2 else (2, 3)
        check(folder, *seeds, entries=len(seeds) // 2)
        declare(folder, study(0, 1), keys(0, 1))  # the same command again
        check(folder, 0, 1, 2, 3, entries=2)


def _declare_in_a_process(folder: Path, start, number: int) -> None:
    start.wait(60)
    for seed in range(4 * number, 4 * number + 4):
        declare(folder, study(seed), keys(seed))


def test_processes_that_race_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    racing = [
        context.Process(target=_declare_in_a_process, args=(tmp_path, start, number))
        for number in range(3)
    ]
    for process in racing:
        process.start()
    for process in racing:
        process.join(120)
    assert [process.exitcode for process in racing] == [0, 0, 0]
    check(tmp_path, *range(12), entries=12)
    assert not [path for path in tmp_path.rglob(".*")]


def test_an_event_is_never_written_again(tmp_path):
    for seeds in ((0,), (0, 1), (0,), (5,)):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
        declare(tmp_path, study(*seeds), keys(*seeds))
        assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / "studies").iterdir())) == 3  # the third said nothing new


def test_in_whatever_order_events_are_read_they_say_the_same(tmp_path):
    for seed in range(4):
        declare(tmp_path, study(seed), keys(seed))
    declare(tmp_path, study(1), {f"new-{key}": run for key, run in keys(1).items()})
    read = events._events(tmp_path)
    first = events.merged(read)
    assert {key for key, run in first.keys.items() if run[1] == 1} == {"new-a1", "new-b1"}
    assert all(events.merged(order) == first for order in itertools.permutations(read))


def test_clocks_that_disagree_do_not_undo_what_was_declared_later(tmp_path):
    path = declare(tmp_path, study(0), keys(0)).path
    said = json.loads(path.read_text())
    said["at"] = "2999-01-01T00:00:00.000000+00:00"
    path.unlink()
    text = json.dumps(said).encode()
    name = f"s-digits-{study(0).identity}.{files.digest(text)[:16]}.json"
    files.publish(tmp_path, f"studies/{name}", text)
    later = {f"new-{key}": run for key, run in keys(0).items()}
    assert declare(tmp_path, study(0), later).keys == later


def test_declarations_of_one_file_are_read_and_continued(tmp_path):
    name = "frozen-digits-11bcf1b39e68.json"
    (tmp_path / "studies").mkdir()
    old = tmp_path / "studies" / name
    old.write_bytes((SHIPPED / "studies" / name).read_bytes())
    (before,) = declarations(tmp_path)
    assert before.path == old and len(before.study.seeds) == 10
    more = before.study.model_copy(update={"seeds": (99,)})
    new = {"k": (before.study.arms[0].name, 99)}
    after = declare(tmp_path, more, new)
    assert after.keys == dict(before.keys) | new and after.path == old
    assert after.study.seeds == (*before.study.seeds, 99)
    assert old.read_bytes() == (SHIPPED / "studies" / name).read_bytes()
