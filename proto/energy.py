"""What a peer says of the energy that its part in a run has taken: signed with its adverts, kept by all.

Counters since it first took part, so that attempts which came to nothing count as well, and a claim that is
lost costs nothing. What the network took is no claim: `network_bytes` times the manifest's joules a megabyte.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from proto.canonical import Count, Message

EnergyKind = Literal["measured", "modelled", "unavailable"]
Words = Annotated[str, Field(min_length=1, max_length=160, pattern=r"^[ -~]+$")]
Milligrams = Annotated[int, Field(ge=0, le=2_000_000)]


class EnergyClaim(Message):
    """Counters of one peer. `spent`: mJ of its meters for training (with the outer step), for checks of
    others, and for everything else; None where nothing can tell, and `source` says why."""

    DOMAIN: ClassVar[str] = "energy-claim"

    source: Words  # the meter or the model
    uncertainty: Annotated[int, Field(ge=0, le=100_000)]  # thousandths of the amount, either way
    spent: tuple[Literal["measured", "modelled"], Count, Count, Count] | None
    network_bytes: Count  # sent and received
    tokens: Count  # trained on
    milliseconds: Count  # covered
    grid: tuple[Milligrams, Words] | None  # CO2e a kilowatt-hour; country and year, or who stated it
    embodied: Count | None  # mg of CO2e of making the device, its share by time

    @property
    def kind(self) -> EnergyKind:
        """How the meters know."""
        return "unavailable" if self.spent is None else self.spent[0]

    @property
    def millijoules(self) -> int | None:
        """What the meters gave in all."""
        return None if self.spent is None else sum(self.spent[1:])
