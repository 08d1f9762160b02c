"""Where servers and replicas go on the machines of a Ray cluster."""

from shoal.scheduler.ray.plan import Group, lacking, place_servers, room_for

NEED = {"CPU": 1.0}
FOUR = {"CPU": 4.0}


def test_each_server_and_replica_has_a_machine_of_its_own_if_there_are_enough() -> None:
    groups, told = place_servers(2, 1, NEED, [FOUR] * 4)
    assert groups == [Group(("server 0", "server 1", "replica 0", "replica 1"), "STRICT_SPREAD")]
    assert told == ""


def test_a_server_and_its_replica_are_kept_apart_on_few_machines() -> None:
    groups, told = place_servers(2, 1, NEED, [FOUR, FOUR, {"CPU": 0.0}])
    assert groups == [
        Group(("server 0", "replica 0"), "STRICT_SPREAD"),
        Group(("server 1", "replica 1"), "STRICT_SPREAD"),
    ]
    assert told == "4 servers and replicas share 2 machines; a server and its replica are never on the same one"


def test_on_one_machine_it_is_said_what_its_death_means() -> None:
    groups, told = place_servers(2, 1, NEED, [FOUR])
    assert [g.strategy for g in groups] == ["SPREAD"]
    assert told == "2 servers and 2 replicas share 1 machine: its death takes a server and its replica together"
    assert "its death takes several of them" in place_servers(3, 0, NEED, [FOUR])[1]


def test_one_server_is_as_spread_as_it_can_be() -> None:
    assert place_servers(1, 0, NEED, [FOUR]) == ([Group(("server 0",), "STRICT_SPREAD")], "")
    assert place_servers(0, 0, NEED, [FOUR]) == ([], "")


def test_room_is_counted_machine_by_machine() -> None:
    need = {"CPU": 2.0, "GPU": 1.0}
    assert room_for(need, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 64.0}]) == 3
    assert room_for({"CPU": 0.1}, [{"CPU": 0.3}]) == 3


def test_what_no_machine_has_is_named() -> None:
    assert lacking(NEED, [FOUR]) == ""
    assert lacking(NEED, []) == "1 CPU: the cluster has no machine"
    assert lacking({"GPU": 1.0, "CPU": 2.0}, [FOUR]) == "2 CPU, 1 GPU on one machine: the largest has 4 CPU, 0 GPU"
