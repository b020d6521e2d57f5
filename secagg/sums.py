"""The part sums of a session as they come, until the whole sum is here."""

from collections.abc import Mapping

import numpy as np

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import PartSum
from secagg.parts import Cut


class Sums:
    """The sum over one survivor set. `owners`: of each part, as the final set names them."""

    def __init__(
        self, cut: Cut, owners: Mapping[int, PeerID], survivor_set: bytes, size: int, dtype: np.dtype
    ) -> None:
        self.total = np.empty(size, dtype)
        self.owners, self.survivor_set = owners, survivor_set
        self.headers: dict[int, bytes] = {}
        self._cut = cut
        self._unchecked: dict[int, tuple[bytes, np.ndarray]] = {}

    @property
    def missing(self) -> list[int]:
        """Parts whose sum is not here."""
        return [part for part in self._cut.parts if part not in self.headers]

    def of(self, part: int) -> np.ndarray:
        """Where a part's sum stands."""
        return self.total[self._cut.slices[part]]

    def check_header(self, sender: PeerID, message: PartSum) -> None:
        """Raises MessageRefused unless this is the owner's sum of the final set, and the first."""
        if self.owners[message.part] != sender:
            raise MessageRefused(f"part-sum: {sender} does not own part {message.part}")
        if message.survivor_set != self.survivor_set:
            raise MessageRefused("part-sum: a sum over another survivor set")
        if message.part in self.headers or message.part in self._unchecked:
            raise MessageRefused(f"part-sum: part {message.part} is here already")

    def put(self, part: int, header: bytes, data: np.ndarray) -> None:
        """Take a sum whose data are still to be checked against its header."""
        self._unchecked[part] = (header, data)

    def checked(self, part: int, holds: bool) -> None:
        """Keep it, or raise MessageRefused."""
        header, data = self._unchecked.pop(part)
        if not holds:
            raise MessageRefused(f"part-sum: the data of part {part} are not those of its signed header")
        self.of(part)[:] = data  # only now: a stream that goes on writing must not reach the total
        self.headers[part] = header
