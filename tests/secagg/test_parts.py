"""Parts: every element has one part, whole chunks only, and every member a turn as owner."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from secagg.parts import owner_chain, part_slices


@given(st.integers(0, 5_000), st.integers(1, 32), st.integers(1, 300))
def test_parts_cover_every_element_once_in_whole_chunks_and_evenly(
    size: int, members: int, chunk: int
) -> None:
    slices = part_slices(size, members, chunk)
    assert len(slices) == members
    assert (slices[0].start, slices[-1].stop) == (0, size)
    for one, following in pairwise(slices):
        assert one.stop == following.start
        assert one.stop % chunk == 0 or one.stop == size
    chunks = [-(-(s.stop - s.start) // chunk) for s in slices]
    assert sum(chunks) == -(-size // chunk)
    assert max(chunks) - min(chunks) <= 1


@given(st.integers(1, 32))
def test_every_member_is_in_each_chain_once_and_heads_one(members: int) -> None:
    peers = [str(index) for index in range(members)]
    chains = [owner_chain(part, peers, peers) for part in range(members)]
    assert all(sorted(chain) == sorted(peers) for chain in chains)
    assert [chain[0] for chain in chains] == peers
    if members > 1:
        assert sorted(chain[1] for chain in chains) == sorted(peers)


def test_members_that_own_nothing_step_in_after_the_owners() -> None:
    assert owner_chain(1, ["b", "d"], ["a", "b", "c", "d"]) == ["d", "b", "a", "c"]
