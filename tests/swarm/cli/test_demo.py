"""The demo's attackers: who may attack, whose word counts, and what is shown of a ban."""

from pathlib import Path

import pytest

from swarm.attacks import UnknownAttack
from swarm.cli.common import BadArgument
from swarm.cli.demo_run import Course, Plan, check_attack
from swarm.cli.demo_swarm import DemoFailed
from swarm.cli.view import View, sentence

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
