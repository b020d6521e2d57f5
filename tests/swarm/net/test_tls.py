"""The certificate file: a restart shows the same leaf, and a file that is not ours is never used."""

from pathlib import Path

import pytest

from swarm.net.tls import CERTIFICATE_FILE, CannotKeepCertificate, load_or_make_certificate
from verify.identity import Identity, certificate_owner, make_certificate


def test_a_restart_shows_the_same_leaf(tmp_path: Path) -> None:
    identity = Identity.generate()
    first = load_or_make_certificate(tmp_path, identity)
    assert load_or_make_certificate(tmp_path, identity) == first
    assert certificate_owner(first.certificate_pem) == identity.peer_id
    assert (tmp_path / CERTIFICATE_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["cut", "exposed", "other identity", "other key", "noise"])
def test_a_file_that_cannot_be_ours_is_made_anew(tmp_path: Path, damage: str) -> None:
    identity, path = Identity.generate(), tmp_path / CERTIFICATE_FILE
    owner = Identity.generate() if damage == "other identity" else identity
    before = load_or_make_certificate(tmp_path, owner)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    if damage == "noise":
        path.write_bytes(b"\xff" * 100)
    if damage == "exposed":
        path.chmod(0o644)
    if damage == "other key":
        path.write_bytes(path.read_bytes().replace(before.key_pem, make_certificate(identity).key_pem))
    fresh = load_or_make_certificate(tmp_path, identity)
    assert fresh != before
    assert certificate_owner(fresh.certificate_pem) == identity.peer_id
    assert load_or_make_certificate(tmp_path, identity) == fresh


def test_a_folder_that_takes_no_file_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(CannotKeepCertificate, match="--state-dir"):
        load_or_make_certificate(tmp_path / "missing", Identity.generate())
