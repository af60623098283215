"""Who is declared dead and who is promoted, by examples; what must hold always, by chance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.failover import Heard, Memory, Observations, Patience, decide
from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

NAMES = ("a", "b", "c")
PATIENCE = Patience()


@dataclass
class World:
    """Three nodes and table t with copies on all; a leads Raft and is the controller."""

    now: float = 100.0
    me: str = "a"
    since: float = 0.0
    state: s.Metadata = field(default_factory=s.Metadata)
    memory: Memory = field(default_factory=Memory)
    live_at: dict[str, float] = field(default_factory=dict)  # last fresh heartbeat here
    incarnations: dict[str, int] = field(default_factory=dict)
    hears: dict[str, dict[str, float]] = field(default_factory=dict)
    ends: dict[str, tuple[int, int]] = field(default_factory=dict)
    requests: int = 0
    proposed: list[c.Command] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.register(name)
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        table = TableDef("t", "docs", TableSchema(columns, 1), shards=2)
        shards = ("s0", "s1")
        self.do(c.CreateTable(request_id="create", table=table, shard_uuids=shards, nodes=NAMES))
        alloc = {name: f"{name}-1" for name in NAMES}
        self.do(c.TableReady(request_id="ready", table_uuid="t", alloc_ids=alloc))
        for name in NAMES:
            self.beat(name)

    def do(self, command: c.Command) -> str:
        self.state, result = s.apply(self.state, command)
        self.state.check_invariants()
        return result.code

    def register(self, name: str) -> None:
        self.requests += 1
        request = f"register-{self.requests}"
        self.do(c.RegisterNode(request_id=request, node_id=name, name=name, url="u"))

    def beat(self, *names: str, hears: dict[str, float] | None = None) -> None:
        """Fresh heartbeats of these nodes, which hear everybody unless said otherwise."""
        for name in names:
            self.live_at[name] = self.now
            self.incarnations[name] = self.state.nodes[name].incarnation
            self.hears[name] = dict.fromkeys(NAMES, 0.0) if hears is None else hears

    def look(self, own: dict[str, float] | None = None) -> list[c.Command]:
        nodes = {
            name: Heard(
                self.incarnations[name], at, at, self.hears[name],
                dict.fromkeys(("s0", "s1"), self.ends[name]) if name in self.ends else {},
            )
            for name, at in self.live_at.items() if name != self.me and at >= self.since
        }  # fmt: skip
        own = dict.fromkeys(NAMES, 0.0) if own is None else own
        seen = Observations(self.me, self.since, nodes, own)
        commands, self.memory = decide(self.now, seen, self.state, self.memory, PATIENCE)
        return commands

    def settle(self, own: dict[str, float] | None = None) -> None:
        """Look and apply until there is nothing to do."""
        for _ in range(5):
            commands = self.look(own)
            for command in commands:
                self.proposed.append(command)
                if code := self.do(command):
                    self.refused.append(code)
            if not commands:
                return

    def primaries(self) -> list[str | None]:
        return [shard.primary for shard in self.state.tables["t"].shards]


def kinds(commands: list[c.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_nothing_is_done_while_all_live() -> None:
    world = World()
    assert world.look() == []


def test_a_silent_primary_is_fenced_after_three_seconds_and_replaced_at_once() -> None:
    world = World(me="c")
    world.now += 2.9
    world.beat("b")
    assert world.look() == []
    world.now += 0.1
    world.beat("b")
    assert kinds(world.look()) == ["FenceNode"]
    world.settle()
    assert world.state.nodes["a"].fenced
    assert world.primaries() == ["c", "c"]  # by name, as nothing else differs
    assert world.state.tables["t"].shards[0].isr == ("b", "c")
    assert world.look() == []


def test_of_two_the_one_with_the_longer_log_is_promoted() -> None:
    world = World(me="c")
    world.ends = {"b": (1, 9), "c": (1, 8)}
    world.now += 3
    world.beat("b")
    world.settle()
    assert world.primaries() == ["b", "b"]


def test_a_new_controller_waits_and_then_believes_when_others_last_heard_the_dead() -> None:
    world = World(me="b", memory=Memory())
    world.since, world.now = 102.0, 103.4  # a was last heard at 100.0
    world.beat("c", hears={"a": 3.4, "b": 0.0})
    assert world.look(own={"a": 3.4, "c": 0.0}) == []  # warming up
    world.now = 103.5
    assert kinds(world.look(own={"a": 3.5, "c": 0.0})) == ["FenceNode"]


def test_the_others_word_saves_nobody() -> None:
    """P is cut off from the controller alone: it is fenced though the third one hears it."""
    world = World(me="b", memory=Memory())
    world.since = world.now = 200.0
    for _ in range(4):
        world.now += 1
        world.beat("c")  # hears a
        commands = world.look(own={"a": 99.0, "c": 0.0})
    assert kinds(commands) == ["FenceNode"]
    assert world.now - world.since >= 3


def test_after_a_restart_of_all_nobody_is_fenced_for_half_a_minute() -> None:
    world = World(me="b", memory=Memory())
    world.since, world.live_at = 200.0, {}
    world.now = 229.9
    world.beat("c", hears={"b": 0.0})
    assert world.look(own={"c": 0.0}) == []
    world.now = 230.0
    world.beat("c", hears={"b": 0.0})
    assert kinds(world.look(own={"c": 0.0})) == ["FenceNode"]


def test_who_registers_has_the_time_to_speak() -> None:
    world = World(me="b")
    world.look()
    world.register("a")
    world.look()  # sees the new incarnation
    world.now += 2.9
    world.beat("c")
    assert world.look() == []
    world.now += 0.1
    assert kinds(world.look()) == ["FenceNode"]


def test_a_primary_that_reaches_too_few_gives_way_to_one_that_reaches_enough() -> None:
    world = World(me="c")
    world.look()
    world.now += 4
    world.beat("a", hears={"b": 9.0, "c": 9.0})
    world.beat("b")
    world.settle()
    assert kinds(world.proposed) == ["Promote", "Promote"]
    assert set(world.primaries()) == {"c"}


def test_one_that_everybody_is_cut_off_from_is_no_better() -> None:
    world = World(me="c")
    world.now += 4
    world.beat("a", hears={"b": 9.0, "c": 9.0})
    world.beat("b", hears={"a": 9.0, "c": 9.0})
    assert world.look(own={"a": 9.0, "b": 9.0}) == []


def test_promotions_of_a_shard_are_rare() -> None:
    world = World(me="c")
    times = []
    for _ in range(4000):
        world.now += 0.1
        world.beat("a", "b", hears={})  # whoever is primary seems to reach nobody
        commands = world.look(own={"a": 9.0, "b": 9.0} if world.primaries()[0] == "c" else None)
        if any(isinstance(command, sh.Promote) for command in commands):
            times.append(world.now)
        for command in commands:
            world.do(command)
    gaps = [round(later - before) for before, later in zip(times, times[1:], strict=False)]
    assert min(gaps, default=5) >= 5
    assert max(gaps, default=0) <= 61
    assert gaps == sorted(gaps)


def test_failures_now_and_then_are_no_flapping() -> None:
    """Its primary dies every 9 s: each time another one is there after 3 s."""
    world = World(me="c")
    for dying, other in (("a", "b"), ("b", "a")) * 4:
        shard = world.state.tables["t"].shards[0]
        lives = {name: world.state.nodes[name].incarnation for name in NAMES}
        everybody = sh.IsrChange(
            request_id=f"all-{world.now}", shard_uuid="s0", expected_version=shard.version,
            epoch=shard.epoch, isr=NAMES, incarnations=lives,
        )  # fmt: skip
        assert world.do(everybody) == ""
        first = sh.Promote(
            request_id=f"first-{world.now}", shard_uuid="s0", expected_version=shard.version + 1,
            node_id=dying, incarnation=lives[dying],
        )  # fmt: skip
        assert world.do(first) == ""
        for _ in range(31):
            world.now += 0.1
            world.beat(other)
            world.settle()
        assert world.state.tables["t"].shards[0].epoch == shard.epoch + 2, f"{dying} reigns on"
        world.register(dying)
        for _ in range(59):
            world.now += 0.1
            world.beat("a", "b")
            world.settle()


def test_a_node_that_is_on_its_way_out_is_no_candidate_and_gives_its_part_away_itself() -> None:
    world = World(me="b")
    world.do(n.DrainNode(request_id="drain", node_id="a", draining=True))
    assert world.look() == []  # see test_migration
    world.do(n.DrainNode(request_id="drain-c", node_id="c", draining=True))
    world.now += 3
    world.beat("b", "c")
    world.settle()
    assert set(world.primaries()) == {"b"}


def test_a_table_that_nobody_finishes_is_finished_or_dropped() -> None:
    world = World()
    columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
    for uuid in ("u", "v"):
        table = TableDef(uuid, uuid, TableSchema(columns, 1), shards=1)
        create = c.CreateTable(request_id=uuid, table=table, shard_uuids=(f"{uuid}0",), nodes=NAMES)
        assert world.do(create) == ""
    for node in ("b", "c"):
        alloc = {"u0": node}
        ready = sh.CopyReady(
            request_id=f"copy-{node}", table_uuid="u", node_id=node, alloc_ids=alloc
        )
        assert world.do(ready) == ""
    assert world.look() == []
    world.now += 30
    world.beat("b", "c")
    assert kinds(world.look()) == ["TableReady", "DropTable"]
    world.settle()
    assert world.state.tables["u"].ready
    assert "v" not in world.state.tables


_NODE = st.sampled_from(NAMES)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 2.0, 4.0, 40.0]), _NODE),
        st.tuples(
            st.sampled_from(["die", "live", "restart", "lead", "drain"]), st.just(0.0), _NODE
        ),
    ),
    max_size=40,
)


@given(_STEPS)
def test_whatever_happens_only_the_silent_are_fenced_and_only_the_living_promoted(
    steps: list[tuple[str, float, str]],
) -> None:
    world = World(me="a")
    dead: set[str] = set()
    for what, seconds, name in steps:
        if what == "die":
            dead.add(name)
        elif what in ("live", "restart"):
            dead.discard(name)
            world.register(name)  # a process that comes back is another incarnation
        elif what == "lead" and name not in dead:
            world.me, world.since, world.memory = name, world.now, Memory()
        elif what == "drain":
            world.requests += 1
            drain = n.DrainNode(
                request_id=f"drain-{world.requests}", node_id=name, draining=name == "b"
            )
            world.do(drain)
        if world.me in dead:
            continue  # a dead controller decides nothing
        for _ in range(max(1, int(seconds / 0.5))):
            world.now += 0.5
            world.beat(*(alive for alive in NAMES if alive not in dead))
            before, commands = world.state, world.look()
            for command in commands:
                _check(command, before, dead, world)
                assert world.do(command) == "" or isinstance(command, sh.Promote)
            world.state = replace(world.state)
    if world.me not in dead:
        _everything_has_a_living_primary_in_the_end(world, dead)


def _check(command: c.Command, state: s.Metadata, dead: set[str], world: World) -> None:
    assert world.now - world.since >= PATIENCE.warm_up_s
    if isinstance(command, n.FenceNode):
        assert command.node_id in dead
        assert command.incarnation == state.nodes[command.node_id].incarnation
    if isinstance(command, sh.Promote):
        assert command.node_id not in dead or world.now - world.live_at[command.node_id] < 3
        assert not state.nodes[command.node_id].fenced
        row = next(s for s in state.tables["t"].shards if s.uuid == command.shard_uuid)
        assert command.node_id in row.isr
        assert command.node_id != row.primary


def _everything_has_a_living_primary_in_the_end(world: World, dead: set[str]) -> None:
    for _ in range(200):
        world.now += 0.5
        world.beat(*(alive for alive in NAMES if alive not in dead))
        for command in world.look():
            world.do(command)
    for shard in world.state.tables["t"].shards:
        if any(member not in dead for member in shard.isr):
            assert shard.primary not in dead
            assert shard.primary is not None


def test_every_command_of_a_look_is_accepted() -> None:
    world = World(me="c")
    world.now += 5
    world.beat("b")
    world.settle()
    assert world.refused == []
