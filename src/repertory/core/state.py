"""The brain's state, indexed so that an event touches only what it concerns.

Only `core` writes it, and only inside `Controller.handle`.
"""

from dataclasses import dataclass, field

from repertory.core.costbook import CostBook
from repertory.core.demand import Absence, ArrivalRate, OutputLength
from repertory.core.ledger import Ledger
from repertory.core.tickets import Alike, KeyState, Ticket
from repertory.domain.actions import Action, Load, Resize, Transition
from repertory.domain.decisions import Cause, Option, Verdict
from repertory.domain.ladder import Phase, RequestState, RequestStep, Rung, next_state
from repertory.domain.requests import Fault, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement, WeightsForm
from repertory.perf.bytes import Stretch
from repertory.perf.costs import GUESSED, Grounds
from repertory.policy.objective import Starving
from repertory.policy.places.evict import Release
from repertory.policy.places.offload import Rule, by_harm

__all__ = [
    "Intent",
    "Lies",
    "ModelState",
    "Pause",
    "ReplicaState",
    "RequestRecord",
    "State",
    "Step",
]

Lies = tuple[WeightsForm, int | None, bool]
"""What the bytes of a model's weights on its devices depend on: their form, how many layers are
there, and whether what need not be there is held elsewhere."""


@dataclass(slots=True, eq=False)
class RequestRecord:
    """A request that has no outcome yet."""

    request: Request
    since_ns: int
    work_ns: int
    """Predicted device time, fixed at arrival so that the sums of queues stay exact."""
    state: RequestState = RequestState.WAITING
    replica_id: str | None = None
    place: tuple[Alike, Ticket] | None = None
    """In its model's lines, while it waits."""
    company: int = 0
    """Generations on its replica when it was dispatched, itself among them."""
    dispatched_ns: int = 0
    is_stopping: bool = False
    """It is being preempted."""
    is_returned: bool = False
    """Its worker died, and it waits for a slot in place of the one that it had."""
    ahead_s: float = 0.0
    """By the law, what was to be computed before its own prompt when it was dispatched."""
    begin_ns: int | None = None
    """By when its prompt must begin for its deadline, as predicted; None: it has none."""
    charged_ns: int = 0
    """Of its key's account, for the run under way: predicted until it is measured."""
    preemptions: int = 0
    unpaid_stops: int = 0
    """Those of them before which it had made less of its slot than it cost to take it up."""
    taken_up_ns: int | None = None
    """When it had its first token since it was dispatched."""
    returns: int = 0
    """How many workers died under it."""
    made_tokens: int = 0
    """Before it was preempted last."""
    made_by: str | None = None
    """Digest of the file that made its tokens, if it is to go on after some."""
    is_suspect: bool = False
    """The last of them perhaps because of it: it has made no token since."""
    strikes: tuple[str, ...] = ()
    """How workers died under it while it was the one on trial."""

    @property
    def has_begun(self) -> bool:
        """It had a slot before."""
        return self.company > 0

    @property
    def due_ns(self) -> int | None:
        """`begin_ns` while its first token is not there."""
        return self.begin_ns if self.made_by is None else None

    def walk(self, step: RequestStep) -> None:
        self.state = next_state(self.state, step, self)


@dataclass(slots=True, eq=False)
class ReplicaState:
    """One copy of a model on one placement."""

    id: str
    model: str
    spec: ModelSpec
    """What it was brought up as; the model's own spec may have changed since."""
    node_id: str
    placement: Placement
    rung: Rung = Rung.DISK
    phase: Phase = Phase.OPEN
    kv: KvShape | None = None
    """Of a serving replica, or promised to one that is on its way up."""
    running: dict[str, RequestRecord] = field(default_factory=dict)
    running_ns: int = 0
    transition: Transition | None = None
    """Under way; at most one."""
    was_crowded: bool = False
    """Something decoded on its node when its last load began."""
    activate_s: float = 0.0
    reload_s: float = 0.0
    cold_s: float = 0.0
    """What bringing it back would take, as predicted when it came up: its KV memory, its weights
    from `HOST`, its weights from `DISK`."""
    opened_at_ns: int = 0
    idle_since_ns: int = 0
    leaving: Release | None = None
    """How far it is going down."""
    leaving_for: Cause | None = None
    """Why it went down last: one way down has one cause, however many edges it takes."""
    retiring: Release | None = None
    """How far it goes down as soon as it is idle, and it is not spared (operator, TTL, file)."""
    retiring_for: Cause | None = None
    """Why, when that was last decided."""
    claimed_by: str | None = None
    """The model that waits for this memory; its own name if it must reopen with larger slots."""
    handover_at_ns: int = 0

    @property
    def is_idle(self) -> bool:
        return self.transition is None and not self.running

    @property
    def is_open(self) -> bool:
        return (
            self.rung is Rung.SERVING
            and self.phase is Phase.OPEN
            and (self.transition is None or type(self.transition) is Resize)
            and self.leaving is None
            and self.retiring is None
        )

    @property
    def slots(self) -> int:
        """How many generations may run on it; under a resize, what both shapes hold: longer slots
        may be fewer, and what is sent meanwhile must find one.
        """
        if self.kv is None:
            return 0
        if self.transition is not None and isinstance(self.transition, Resize):
            return min(self.kv.sequences, self.transition.kv.sequences)
        return self.kv.sequences

    def retire(self, release: Release, cause: Cause) -> None:
        """Down so far as soon as it is idle; what was decided before stands, unless it is less."""
        if self.retiring is None or release is Release.GONE:
            self.retiring, self.retiring_for = release, cause


@dataclass(slots=True)
class Intent:
    """A placement that waits for its victims to leave."""

    model: str
    replica_id: str
    node_id: str
    placement: Placement
    kv: KvShape | None
    need_bytes: dict[str, int]
    """Per device, until it starts."""
    options: tuple[Option, ...] = ()
    """What else could have been done, for the record of its load."""


@dataclass(slots=True)
class Pause:
    """Generations that were stopped for another model, until all of them have gone on or ended."""

    claimant: str
    model: str
    """Theirs."""
    node_id: str
    at_ns: int
    victims: dict[str, None]
    """Those that have not gone on yet."""
    predicted_s: float = 0.0
    grounds: Grounds = GUESSED
    """Of what was predicted."""
    there_s: float | None = None
    """Until the claimant was dispatched."""
    told_s: float | None = None
    """Until it had its first token."""
    back_ns: int | None = None
    """When their model began to come back; None: it stayed, so far."""
    back_s: float | None = None
    resume_s: float = 0.0
    """The longest."""
    lost_s: float = 0.0
    """Until the last of them had its next token."""
    resumed: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ModelState:
    """One model: its queue, its replicas, what it was asked for."""

    spec: ModelSpec
    rate: ArrivalRate
    output: OutputLength
    queue: dict[str, RequestRecord] = field(default_factory=dict)
    """Waiting requests in order of arrival."""
    lines: dict[Alike, list[Ticket]] = field(default_factory=dict)
    """The same, by who is alike; `core.requests.queueing` says who is next."""
    queued_ns: int = 0
    queued_weight: float = 0.0
    queued_weight_since: float = 0.0
    """Σ weight x since seconds: aging in O(1)."""
    served_ns: dict[int, int] = field(default_factory=dict)
    """When one of each class of weights (`policy.requests.line.band`) was last dispatched."""
    replicas: dict[str, ReplicaState] = field(default_factory=dict)
    claims: dict[str, None] = field(default_factory=dict)
    """Replicas of others that drain for this model."""
    is_pinned: bool = False
    is_wanted: bool = False
    """An operator asked for it; satisfied once it serves."""
    wanted_for: Cause = Cause.OPERATOR
    """Why, if it is wanted: `PLACEMENT` on its way to a better place."""
    fault: str | None = None
    """Why it cannot be served; new requests are answered with this."""
    fault_kind: Fault = Fault.ENGINE
    """While there is a fault: what failed."""
    usual_prompt_tokens: float = 0.0
    """Of the last few requests, the newest counting most."""
    failures: int = 0
    deaths: tuple[str, ...] = ()
    """How workers died while it was being brought up, since that last succeeded."""
    not_before_ns: int = 0
    """After a failed load: no new try before."""
    switch_ns: int = 0
    """Predicted load + activate, as of its queue's last new head."""
    measured_at: Placement | None = None
    """Where its decode steps are known to have been measured: what was, stays so until its file is
    another.  Kept because every refusal asks it of all that wait.
    """
    misfit: str | None = None
    """Why no device that is up could ever serve it, read after its name."""
    largest_cells: int = 0
    """The longest slot that fits beside the weights on an otherwise empty placement."""
    failed_kv_tokens: int | None = None
    """KV memory of this size could not be allocated: smaller shapes only, until it unloads."""
    is_removed: bool = False
    extra_bytes: int = 0
    """Added to predicted weights after an allocation failed."""
    measured_weights_bytes: dict[Lies, int] = field(default_factory=dict)
    measured_rest_bytes: dict[Lies, int] = field(default_factory=dict)
    """Of the weights, in main memory beside those on accelerators."""
    stretches: dict[tuple[WeightsForm, bool], Stretch] = field(default_factory=dict)
    """What these say of other numbers of layers (`places.tiers`), by form and by whether there is
    main memory beside; forgotten when they or the spec change."""
    measured_buffers_bytes: int = 0
    measured_rest_buffers_bytes: int = 0
    head_id: str | None = None
    """The waiting request that `needs` was computed for."""
    need_bytes: int | None = None
    """The least per device that serves its head from where its weights are; None: ask anew."""

    @property
    def oldest(self) -> RequestRecord | None:
        for one in self.queue.values():
            return one
        return None

    def is_spare(self, replica: ReplicaState) -> bool:
        """Another one is open, and has been for longer: without this one it is served still."""
        if len(self.replicas) < 2:
            return False
        return any(
            one.is_open
            and (
                not replica.is_open
                or (one.opened_at_ns, one.id) < (replica.opened_at_ns, replica.id)
            )
            for one in self.replicas.values()
            if one is not replica
        )

    def is_served(self) -> bool:
        """Some replica serves it, moves, or is on its way down: nothing is to be placed now."""
        for one in self.replicas.values():
            if one.rung is Rung.SERVING or one.transition is not None or one.leaving is not None:
                return True
        return False


@dataclass(slots=True)
class Step:
    """What one event leads to."""

    at_ns: int
    actions: list[Action] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    touched: dict[str, None] = field(default_factory=dict)
    """Models whose queue, replicas or intent changed."""
    short: dict[str, None] = field(default_factory=dict)
    """Models that lack slots as of this event, or more of them than when others were last asked."""
    has_bytes: bool = False
    """Bytes were freed: placements under way may start."""
    has_room: bool = False
    """More may be given to others than before: all starved models are compared."""


class State:
    """Everything the brain knows."""

    def __init__(self, settings: Settings, costs: CostBook, offload: Rule = by_harm) -> None:
        self.settings = settings
        self.offload = offload
        self.costs = costs
        self.nodes: dict[str, NodeSpec] = {}
        self.devices: dict[str, Ledger] = {}
        self.hosts: dict[str, Ledger] = {}
        self.models: dict[str, ModelState] = {}
        self.replicas: dict[str, ReplicaState] = {}
        self.on_devices: dict[str, ReplicaState] = {}
        """Replicas that hold device memory, or are about to."""
        self.busy: dict[str, ReplicaState] = {}  # on which something runs
        self.requests: dict[str, RequestRecord] = {}
        self.intents: dict[str, Intent] = {}
        """By model, in order of creation."""
        self.starved: dict[str, Starving] = {}
        """Models with demand and nothing under way."""
        self.starved_ns: int = 0
        self.absence = Absence()
        self.short: dict[str, None] = {}
        """Models that are served, with requests that wait for a slot and no memory for one."""
        self.waiting: int = 0
        self.queued_ns: int = 0
        self.keys: dict[str, KeyState] = {}
        """API keys with work under way, or whose account is above the level."""
        self.level_ns: int = 0
        """What the key that stopped waiting last had used then."""
        self.heads: dict[str, RequestRecord] = {}
        """Who has a model's next slot (`queueing.first_of`), as long as nothing it depends on has
        changed in this step: some four rules ask for it, one after the other."""
        self.timers: dict[str, int] = {}
        self.action_count: int = 0
        self.replica_count: int = 0
        self.is_draining: bool = False
        self.trials: dict[str, str] = {}
        """The suspect that is on trial, by node."""
        self.pauses: dict[str, Pause] = {}
        """By the replica that was stopped last; what they cost is compared when they are over."""
        self.open_problem: int | None = None
        """The `Solve` under way; its answer is applied, any other is stale."""
        self.problem_count: int = 0

    def next_action_id(self) -> int:
        self.action_count += 1
        return self.action_count

    def new_replica(self, model: str, node_id: str, placement: Placement) -> ReplicaState:
        """A copy that stands on `DISK` so far."""
        self.replica_count += 1
        owner = self.models[model]
        name = f"{model}/{self.replica_count}"
        replica = ReplicaState(name, model, owner.spec, node_id, placement)
        self.replicas[replica.id] = replica
        owner.replicas[replica.id] = replica
        return replica

    def index(self, replica: ReplicaState) -> None:
        """Keep `on_devices` true after a change of rung or transition."""
        holds = replica.rung in (Rung.DEVICE, Rung.SERVING) or type(replica.transition) is Load
        if replica.rung is Rung.HOST and not holds:
            holds = self.nodes[replica.node_id].capabilities.asleep_residue_bytes > 0
        if holds:
            self.on_devices[replica.id] = replica
        else:
            self.on_devices.pop(replica.id, None)

    def node_of(self, replica: ReplicaState) -> NodeSpec:
        return self.nodes[replica.node_id]

    def is_crowded(self, node_id: str) -> bool:
        """Something computes on that node."""
        return any(one.node_id == node_id for one in self.busy.values())

    def ledgers_of(self, replica: ReplicaState) -> list[Ledger]:
        """Of all pools that it lies in."""
        return [self.devices[pool] for pool in replica.placement.pools]

    def rest_of(self, replica: ReplicaState) -> Ledger | None:
        """Of the main memory that holds what is not on its accelerator."""
        rest = replica.placement.rest
        return self.devices[rest] if rest is not None else None
