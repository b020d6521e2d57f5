"""`swarm-generate`: tries an exported model."""

from pathlib import Path
from typing import Annotated

import typer

from proto.errors import SwarmError
from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, BadArgument, IdentityFile, Json, LogLevel, StateDir, Version

EXAMPLES = """
swarm-generate my-model --prompt "The capital of"
swarm-generate my-model --prompt "Which of the following" --tokens 100 --temperature 0
"""


class NoModel(SwarmError):
    """The folder holds no model that loads."""


def sample(directory: Path, prompt: str, tokens: int, temperature: float, seed: int = 0) -> str:
    """Prompt and continuation; temperature 0 takes the likeliest token each time. Raises NoModel."""
    if not (directory / "config.json").is_file():
        raise NoModel(
            f"{directory}: there is no model (config.json) in it; name a folder that swarm-export wrote"
        )
    import torch
    from transformers import AutoTokenizer, OPTForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = OPTForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoModel(
            f"{directory}: no model loads from there ({reason}); name a folder that swarm-export wrote"
        ) from None
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.numel():
        raise BadArgument("--prompt is empty: give some text to go on from")
    most = model.config.max_position_embeddings
    if ids.shape[1] + tokens > most:
        raise BadArgument(
            f"prompt and --tokens are {ids.shape[1] + tokens} tokens together; the model reads {most}"
        )
    torch.manual_seed(seed)
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 50}
        if temperature > 0
        else {"do_sample": False}
    )
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            pad_token_id=model.config.pad_token_id,
            **how,
        )
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What swarm-export wrote.")],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to add.")] = 60,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy; higher is more varied.")] = 0.8,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Let an exported model go on from a text."""
    common.start_log(state_dir, "swarm-generate", log_level)
    text = sample(directory, prompt, tokens, temperature)
    if json:
        common.say_json(text=text)
    else:
        print(text)


main = common.main_of(generate, "swarm-generate", EXAMPLES)

if __name__ == "__main__":
    main()
