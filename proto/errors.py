"""The root of every refusal.

An error of edgeswarm is a named class whose text says what was wrong, with which value, and what
to do. The command line prints that text and leaves with the class's exit code; there is no traceback.
"""


class SwarmError(Exception):
    """Base of all named refusals. `exit_code`: 1 = wrong (a check or a run failed), 2 = cannot."""

    exit_code = 2

    def __str__(self) -> str:
        return shown(super().__str__())


class MessageRefused(SwarmError):
    """Bytes from outside that are not what they must be. Nothing was changed by them."""

    exit_code = 1


def shown(text: str) -> str:
    """Text in which some may be what a peer sent, so that it steers no terminal; lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
