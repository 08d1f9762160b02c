"""How far this worker is in its training, and the batch boundaries at which the set of workers changes.

Workers join and leave between two batches: when the set is to change, every worker that takes part comes to a boundary,
says how far it is with its data, and goes on with its part of what is left (`shoal.worker.data.plan`). A boundary is
where the training `DataLoader` hands out a batch, or at the end of `Trainer.step` where there is no such loader, or
where the script calls `boundary`.

The training loader is the first one iterated over, once there is a Trainer or a store, that divides its samples among
the workers. Loaders before that (one batch to find out shapes) and all others are not followed through a change: they
begin their next pass with the workers that are there then.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.errors import ConfigError
from shoal.worker import cluster
from shoal.worker.data.dataset import Indices
from shoal.worker.data.plan import Left, Plan, Turn
from shoal.worker.data.sharding import Sharding, permutation
from shoal.worker.data.shares import Record, moves, standings

__all__ = ["Boundary", "Course", "Group", "Work", "boundary", "current_course"]

MEET_S = 600.0
"""How long a worker waits at a boundary for the others; who is waited for is said before."""


class Group(Protocol):
    """The workers of a run; the cluster's membership is one."""

    @property
    def shares(self) -> Sequence[Record]: ...  # one for each set of workers so far; the first is that of the beginning
    @property
    def changing(self) -> bool: ...  # a change waits for this worker
    @property
    def leaving(self) -> str: ...  # why this worker is to leave; "" if it stays
    def meet(self, cursor: Any, timeout_s: float) -> object: ...  # returns when it is settled, or comes later
    def enter(self, timeout_s: float) -> object: ...  # of a newcomer: returns when it takes part


@dataclass(frozen=True)
class Work:
    """What trains, as a boundary needs it; a Trainer makes one of itself.

    Args:
        steps_of: how many training steps so many pushes are.
        pushes: how many this process has made.
        adopt: take over the store's weights, before the first batch of a worker that comes later.
        settle: contribute what is done, and wait until all of it is counted.
        resume: go on as one that has so many training steps behind it.
    """

    steps_of: Callable[[int], int]
    pushes: Callable[[], int]
    adopt: Callable[[], None]
    settle: Callable[[], None]
    resume: Callable[[int], None]


@dataclass(frozen=True)
class Boundary:
    """What holds from a batch boundary to the next.

    Args:
        ranks: the workers that divide the work, ascending.
        index: which of them this is.
        done: how many boundaries this worker has passed, and its predecessors under the same rank.
    """

    ranks: tuple[int, ...]
    index: int
    done: int


class Course:
    """One worker's way through its training data.

    Args:
        rank: of this worker.
        group: the run's workers; None where their set never changes.
        counted: of a process that replaces another: from a store's number to the pushes of this rank that are counted.
        late: it has joined while the run was under way, and takes part once it has entered.
    """

    def __init__(
        self, rank: int, group: Group | None, counted: Callable[[int], int] | None = None, late: bool = False
    ) -> None:
        self.rank, self.group, self._counted = rank, group, counted
        self.opened = False  # the script has a store
        self.over = False  # training has come to its end, as far as the script has said
        first = group is None or (counted is None and not late)
        self.later = not first  # the run had begun when this process joined
        self._enters = group is not None and (late or rank not in group.shares[-1].ranks)
        self._started = first
        self._seen = 1 if group is None or first else len(group.shares)
        self._works: list[Work] = []
        self._steps = self._handed = 0  # training steps of this rank; of them, since the last change
        self._before = self._made = 0  # pushes that predecessors made; steps of this process
        self._recalled = False
        self._place = 0  # in the queue of the plan's last segment
        self._per_step, self._pending = 1, 0  # batches that make a step; of them, handed out
        self._plan: Plan | None = None
        self._owner: Callable[[], Any] = lambda: None
        self._sharding: Sharding | None = None
        self._epochs: list[int] = []  # by pass
        self._within = False  # a pass

    # --- who takes part -----------------------------------------------------------------------------------------------

    @property
    def at(self) -> int:
        """Number of the set of workers that holds now, from 0."""
        return self._seen - 1

    @property
    def ranks(self) -> tuple[int, ...] | None:
        """Who divides the work now, ascending; None where that never changes."""
        return None if self.group is None else tuple(sorted(self.group.shares[self.at].ranks))

    @property
    def leads(self) -> bool:
        """Whether this worker does what one of them has to do: it is the first of those that take part."""
        return self.rank == (0 if self.ranks is None else self.ranks[0])

    @property
    def steps(self) -> int:
        """Training steps behind this rank, those of a process that this one replaces included."""
        self._recall()
        return self._steps

    def trains(self, work: Work) -> None:
        """There is something that trains; the first one says how far this worker is."""
        self._works.append(work)

    # --- boundaries ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Before the first batch: a process that comes later takes the weights over, and its place."""
        if self._started or self.group is None:
            return
        self._started = True
        if self._enters:
            self._adopt()  # before: the others wait for who takes part
            self.group.enter(MEET_S)
            mine = standings(self.group.shares)[-1][self.rank]
            self._before, self._steps = mine.pushes, mine.steps
        else:
            self._recall()
        self._adopt()
        self._follow(self.group.shares)
        self._seen = len(self.group.shares)
        for work in self._works:
            work.resume(self._steps)

    def come(self) -> None:
        """This is a boundary: if the set of workers is to change, wait until it has."""
        if self.group is None:
            return
        if not self._started:
            self.start()
        elif self.group.changing or len(self.group.shares) > self._seen:
            self._meet(self.group)

    def stepped(self) -> None:
        """A step of a Trainer is done: a boundary, unless a loader knows better."""
        if not self._within:
            self.passed()
            self.come()

    def passed(self) -> None:
        """A training step that no loader has handed out."""
        self._steps += 1
        self._handed += 1
        self._made += 1

    def cursor(self) -> dict[str, Any]:
        """How far this worker is, for everybody's plan."""
        return {
            "steps": self._handed,
            "at": self._place,
            "pushes": self._before + (self._works[0].pushes() if self._works else self._made),
            "total": self._steps,
            "over": self.over,
        }

    def _meet(self, group: Group) -> None:
        for work in self._works if not group.leaving else ():  # who leaves in the middle of local steps gives them up:
            work.settle()  # nobody could tell how many they were, and others make them again
        if group.changing:
            group.meet(self.cursor(), MEET_S)
        if len(group.shares) > self._seen:  # if not, somebody waits for this worker elsewhere: it goes on first
            self._follow(group.shares)
            self._seen = len(group.shares)
            self._handed = self._place = 0

    def _adopt(self) -> None:
        if len(self._works) == 1:  # of several nobody knows which is to come first: each does it at its first step
            self._works[0].adopt()

    def _recall(self) -> None:
        """Where the process that this one replaces had come to."""
        if self.group is None or self._counted is None or self._recalled:
            return
        self._recalled = True
        if not self._enters:
            was = standings(self.group.shares[: self._seen])[-1][self.rank]
            self._before = self._counted(1)
            self._handed = self._steps_of(max(0, self._before - was.pushes))
            self._steps, self._place = was.steps + self._handed, self._handed * self._per_step

    def _steps_of(self, pushes: int) -> int:
        return self._works[0].steps_of(pushes) if self._works else pushes

    # --- the training data --------------------------------------------------------------------------------------------

    def follows(self, loader: Any, sharding: Sharding) -> bool:
        """Whether ``loader`` is the training loader; the first that asks is, as long as it exists, then its like."""
        if self.group is None or not (self._works or self.opened):
            return False
        if self._owner() is None and self._sharding in (None, sharding):
            self._owner, self._sharding = weakref.ref(loader), sharding
        return self._owner() is loader

    def begin(self, sharding: Sharding, epoch: int, left: Left | None, per_step: int) -> int:
        """The training loader begins a pass; its number.

        Args:
            sharding: of the loader, for the workers with which the run began.
            epoch: the loader's number of it, which makes its order.
            left: what is to be done of it, if that is not all.
            per_step: how many batches make a training step.
        """
        if self._plan is None:
            assert self.group is not None
            self._per_step = per_step
            self._recall()
            self._place = self._handed * per_step if self._counted is not None else 0
            s = sharding
            self._plan = Plan(s.num_samples, s.batch_size, s.last_batch, self.group.shares[0].ranks, left)
            self._follow(self.group.shares[: self._seen])
        elif left is not None:  # a script that goes back to a checkpoint: all do, so all leave out the same
            self._place += left.first
        if self._within:
            self.end()
        self._epochs.append(epoch)
        self._within = True
        return len(self._epochs) - 1

    def end(self) -> None:
        """The pass is over; what was not taken of it is left out."""
        if self._within and self._plan is not None:
            self._within = False
            if self._started:
                self._place = max(self._place, self._plan.end(self.at, self.rank, len(self._epochs) - 1))

    def upcoming(self) -> Iterator[Turn]:
        """The batches of this worker up to the end of this pass, as things stand."""
        assert self._plan is not None
        return self._plan.upcoming(self.at, self.rank, self._place, len(self._epochs) - 1)

    def samples(self, turn: Turn, at: int) -> Indices:
        """The samples of one of `upcoming`, which was asked for when set ``at`` held."""
        assert self._plan is not None and self._sharding is not None
        s, places = self._sharding, self._plan.places(at, self.rank, turn)
        return permutation(s.num_samples, s.seed, self._epochs[turn.number])[places] if s.shuffle else places

    def stand(self) -> tuple[int, int, Left | None]:
        """Epoch and step of the batch that comes next, and what was left of that epoch if it has been dealt anew."""
        assert self._plan is not None
        turn = next(self.upcoming(), None)
        if turn is None:
            return self._epochs[-1] + 1, 0, None
        return self._epochs[turn.number], turn.step, self._plan.segments[self.at].left.get(turn.number)

    def took(self) -> None:
        """The next batch is handed out."""
        self._place += 1
        self._pending += 1
        if self._pending == self._per_step:
            self._pending = 0
            self.passed()

    @property
    def between(self) -> bool:
        """Whether the batches handed out so far make whole steps."""
        return self._pending == 0

    def _follow(self, records: Sequence[Record]) -> None:
        """Deal anew what is left, for every set of workers that the plan does not know yet."""
        plan = self._plan
        if plan is None:
            return
        happened = moves(records, lambda pushes: self._steps_of(pushes) * self._per_step)
        for number in range(len(plan.segments), len(records)):
            known = happened[number - 1]
            turns = [plan.turn(number - 1, r, n - 1) for r, n in known.done.items() if n]
            latest = max((t.number for t in turns if t is not None), default=0)
            done = {r: plan.end(number - 1, r, latest) if n is None else n for r, n in known.done.items()}
            ranks = sorted(records[number].ranks)
            plan.share(ranks, done, known.gone, known.idle)
            if not plan.steps(number, ranks[0], plan.segments[-1].fresh):
                raise ConfigError(
                    f"{plan.num_samples} samples make no batch of {plan.batch_size} for each of {len(ranks)} workers: "
                    "one more has joined than the data can be divided among; use smaller batches"
                )


_course = Course(0, None)
_place: cluster.Place | None = None  # that it was made for


def current_course() -> Course:
    """The course of this process; of a script that runs by itself, one on which nothing changes."""
    global _course, _place
    place = cluster.current()
    if place is not _place:
        _place = place
        replaces = place.incarnation > 1 and not place.late
        _course = Course(place.rank, place.elastic, place.counted if replaces else None, place.late)
    return _course


def boundary() -> Boundary:
    """Say that a batch is done, in a loop that has neither a dividing `DataLoader` nor a `Trainer`.

    Workers join and leave the run between batches. Such a loop calls this before each batch; if the set of workers is
    to change it waits for the others (their deadlines name who is waited for). A worker that joins late takes part
    from its first call on.

    Returns:
        Who divides the work from here on, and how many batches are behind this rank: one that replaces another
        goes on from there.
    Raises:
        StoreTimeoutError, NodeLostError: names who is waited for, or lost.
    """
    course = current_course()
    if course.group is None:
        course.passed()
        count = cluster.num_workers()
        return Boundary(tuple(range(count)), cluster.rank(), course.steps - 1)
    course.opened = True
    course.come()
    done, ranks = course.steps, course.ranks or ()
    course.passed()
    return Boundary(ranks, ranks.index(course.rank), done)
