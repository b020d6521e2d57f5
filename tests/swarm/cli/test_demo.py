"""The demo's attackers (who may attack, whose word counts, what is shown of a ban), and its shards."""

from pathlib import Path

import pytest

from swarm.attacks import UnknownAttack
from swarm.cli.common import BadArgument
from swarm.cli.demo_run import (
    Course,
    Plan,
    check_attack,
    check_attacked_shards,
    check_shards,
    manifest_text,
    shard_lines,
)
from swarm.cli.demo_swarm import DemoFailed
from swarm.cli.view import View, sentence
from swarm.manifest import Manifest, ManifestRefused, parse_manifest
from swarm.rules import terms
from verify.identity import Identity
from verify.record import History
from verify.statement import sign

BAN = {"event": "ban", "peer_id": "12D3KooWliar", "round": 4, "reason": "update", "evidence": "ab" * 32}


def plan(peers: int, attackers: int, attack: str | None) -> Plan:
    return Plan(peers, None, Path("demo-run"), None, 0, None, attackers, attack)


def course(view: View) -> Course:
    return Course(view, {"12D3KooWliar": 3}, range(3, 4))


def test_attackers_and_their_attack_are_given_together() -> None:
    check_attack(plan(4, 0, None))
    check_attack(plan(4, 1, "sign_flip"))
    for attackers, attack in ((1, None), (0, "sign_flip")):
        with pytest.raises(BadArgument, match="--attackers A and --attack NAME"):
            check_attack(plan(4, attackers, attack))


def test_an_unknown_attack_is_refused_with_all_names() -> None:
    with pytest.raises(UnknownAttack, match=r"'sign-flip'; name one of sign_flip, .*, false_accusation"):
        check_attack(plan(4, 1, "sign-flip"))


def test_an_attack_on_chains_needs_shards_and_shards_need_cells_that_can_ban() -> None:
    with pytest.raises(BadArgument, match="give --shards 2 --peers 8"):
        check_attacked_shards(plan(4, 1, "wrong_activations"), 1)
    with pytest.raises(BadArgument, match="give --peers 8 or more"):
        check_attacked_shards(plan(6, 1, "sign_flip"), 2)
    check_attacked_shards(plan(8, 1, "wrong_activations"), 2)
    check_attacked_shards(plan(4, 1, "sign_flip"), 1)


@pytest.mark.parametrize(("peers", "attackers"), [(3, 1), (4, 2), (7, 2), (8, 3)])
def test_more_attackers_than_a_swarm_withstands_are_refused_with_the_peers_it_takes(
    peers: int, attackers: int
) -> None:
    with pytest.raises(BadArgument, match=rf"--peers {4 * attackers} or more"):
        check_attack(plan(peers, attackers, "zeros"))
    check_attack(plan(4 * attackers, attackers, "zeros"))


def test_a_ban_is_shown_once_with_the_peers_number(capsys: pytest.CaptureFixture[str]) -> None:
    with View(as_json=False) as view:
        heard = course(view)
        for number in (0, 1, 2):
            heard.hear(number, BAN)
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:] for line in lines] == ["peer 3 is banned: update, evidence abababababababab"]


def test_a_ban_for_silence_names_no_evidence() -> None:
    assert sentence({**BAN, "reason": "silence", "evidence": "00" * 32}) == "12D3KooWliar is banned: silence"


def test_an_attackers_word_is_not_believed_and_an_honest_peers_is() -> None:
    with View(as_json=True) as view:
        heard = course(view)
        agreed = {"event": "round", "round": 1, "snapshot_hash": "aa"}
        heard.hear(0, agreed)
        heard.hear(3, {**agreed, "snapshot_hash": "bb"})
        heard.hear(3, {"event": "ended", "snapshot": "bb"})
        assert heard.final == {}
        with pytest.raises(DemoFailed, match="peers do not agree"):
            heard.hear(1, {**agreed, "snapshot_hash": "bb"})


def in_shards(peers: int, shards: int | None, manifest: Path | None = None) -> Plan:
    return Plan(peers, None, Path("demo-run"), manifest, 0, None, shards=shards)


def manifest_of(plan: Plan) -> Manifest:
    others = sorted(Identity.generate().peer_id for _ in range(plan.peers - 1))
    return parse_manifest(manifest_text(plan, others).encode())


@pytest.mark.parametrize(
    ("peers", "shards", "mode"), [(8, 2, "secure"), (7, 2, "plain"), (4, 2, "plain"), (4, 1, "secure")]
)
def test_shards_are_added_up_under_masks_where_each_has_four_peers(
    peers: int, shards: int, mode: str
) -> None:
    plan = in_shards(peers, shards)
    check_shards(plan)
    made = manifest_of(plan)
    assert (made.model.shards, made.run.min_peers, made.aggregation.mode) == (shards, peers, mode)


def test_without_shards_the_demo_is_the_one_it_was() -> None:
    assert "shards" not in manifest_text(in_shards(4, None), [])


def test_more_shards_than_peers_are_refused_with_the_peers_it_takes() -> None:
    with pytest.raises(BadArgument, match="--peers 3 or more"):
        check_shards(in_shards(2, 3))


def test_more_shards_than_layers_are_refused_by_the_manifest() -> None:
    with pytest.raises(ManifestRefused, match="tiny has 2 layers"):
        manifest_of(in_shards(12, 3))


def test_a_manifest_of_the_users_keeps_its_mode(tmp_path: Path) -> None:
    own = tmp_path / "run.toml"
    own.write_text('[model]\npreset = "opt-125m"\nshards = 3\n[run]\nmin_peers = 12\n')
    assert manifest_of(in_shards(12, None, own)).model.shards == 3
    assert manifest_of(in_shards(8, 2, own)).aggregation.mode == "secure"
    with pytest.raises(ManifestRefused, match="2 shards have a cell each"):
        manifest_of(in_shards(4, 2, own))


def test_who_holds_which_shard_is_told_where_there_are_several() -> None:
    keys = sorted((Identity.generate() for _ in range(5)), key=lambda key: key.peer_id)
    names = {key.peer_id: number for number, key in enumerate(keys)}

    def lines(shards: int) -> list[str]:
        plan = in_shards(5, shards)
        raw = manifest_text(plan, [key.peer_id for key in keys[1:]]).encode()
        snapshots = [bytes([at]) * 32 for at in range(shards)]
        genesis = terms(parse_manifest(raw), raw, keys[0].peer_id, snapshots, bytes(32), 0)
        return list(shard_lines(History.begin(sign(keys[0], genesis)), names))

    assert lines(2) == ["shard 0: peers 0, 2, 4", "shard 1: peers 1, 3"]
    assert lines(1) == []
