"""Puts a finished run folder on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..files import setting
from .card import write_card

NEEDED = ("config.json", "metrics.json", "model.safetensors", "tokenizer.json")
LEFT_HERE = ["checkpoint-*", "training_args.bin", "_saving-*", "teacher-*", ".*.tmp", "trackio/*", "wandb/*"]
LEFT_HERE += ["mistakes.csv"]  # which has texts of the user


@dataclass
class PushArguments:
    """What to put on the Hub, and where."""

    run_folder: str = setting("Folder that `wave-network finetune` left.")
    repo_id: str = setting("Name on the Hub, user/name; created if it does not exist.")
    token: str | None = setting("Access token. Default: HF_TOKEN, or that of `hf auth login`.", None)
    private: bool | None = setting("Make a new repository private.", None)
    revision: str | None = setting("Branch to push to. Default: main.", None)
    create_pr: bool = setting("Open a pull request instead of committing.", False)
    commit_message: str | None = setting("Default: a plain one.", None)


def push_run(
    run_folder: str | Path, repo_id: str, *, token: str | None = None, private: bool | None = None, **settings: Any
) -> str:
    """
    Writes the card anew under the name of the repository, and uploads the run folder in one commit.

    Checkpoints, Trainer's pickled arguments and the texts in `mistakes.csv` are not uploaded. A push that fails can be
    repeated.

    The arguments are those of `PushArguments`; `settings` may be any other of `HfApi.upload_folder`. A repository or a
    branch that does not exist is created. Returns the address of the commit, or of the pull request.

    Raises:
        FileNotFoundError: The folder is not a finished run; the message names what is missing.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, or failed.
    """
    missing = [name for name in NEEDED if not Path(run_folder, name).is_file()]
    if missing:
        raise FileNotFoundError(f"{str(run_folder)!r} is not a finished run: it lacks {', '.join(missing)}.")
    write_card(run_folder, repo_id)  # a run without a card makes no repository
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    write_card(run_folder, repo_id)  # now with its owner
    if settings.get("revision") and not settings.get("create_pr"):
        api.create_branch(repo_id, branch=settings["revision"], exist_ok=True)
    settings["commit_message"] = settings.get("commit_message") or "Upload Wave Network classifier"
    commit = api.upload_folder(repo_id=repo_id, folder_path=run_folder, ignore_patterns=LEFT_HERE, **settings)
    return commit.pr_url or commit.commit_url
