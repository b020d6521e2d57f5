"""The demo's run, and the few keys of a manifest that the demo sets itself."""

import re

DEMO_ROUNDS = 13
DEMO = f"""\
[run]
name = "demo"
rounds = {DEMO_ROUNDS}

[work]
window_seconds = 5.0

[outer]
learning_rate = 1e-2
warmup_rounds = 2

[verification]
rate = 0.5

[membership]
round_timeout_seconds = 20.0
"""


def with_key(text: str, table: str, key: str, value: str) -> str:
    """The manifest `text` with `key = value` (TOML) in [table], in place of a line or as a new one.

    >>> print(with_key("[run]\\nrounds = 3 # few\\n", "run", "rounds", "9"))
    [run]
    rounds = 9
    <BLANKLINE>
    >>> with_key("", "run", "rounds", "9")
    '[run]\\nrounds = 9\\n'
    """
    header = re.search(rf"^[ \t]*\[[ \t]*{table}[ \t]*\][^\n]*\n?", text, re.MULTILINE)
    if header is None:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}[{table}]\n{key} = {value}\n"
    following = re.compile(r"^[ \t]*\[", re.MULTILINE).search(text, header.end())
    end = following.start() if following else len(text)
    lines = [
        line
        for line in text[header.end() : end].splitlines(keepends=True)
        if not re.match(rf"[ \t]*{key}[ \t]*=", line)
    ]
    opening = header[0] if header[0].endswith("\n") else f"{header[0]}\n"
    return f"{text[: header.start()]}{opening}{key} = {value}\n{''.join(lines)}{text[end:]}"
