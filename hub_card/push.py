"""Puts a finished run folder on the Hub, whole."""

from pathlib import Path

from huggingface_hub import HfApi

# What a run folder must hold to be loaded by anyone.
NEEDED = ("config.json", "model.safetensors", "modeling_wave.py", "tokenizer.json", "README.md")


def resolve_repo(run_folder: str | Path, repo_id: str, *, token: str | None = None, private: bool | None = None) -> str:
    """
    The whole name on the Hub, with its owner, which the card says; the repository is created if it does not exist.

    Args:
        run_folder: A folder that `wave-network finetune` left, which is to be pushed there.
        repo_id: Name on the Hub, with its owner or without, which is then the user of the token.
        token: Access token. None: the one of `hf auth login` or `HF_TOKEN`.
        private: Whether a new repository is private. None: the account's default.

    Returns:
        `owner/name`.

    Raises:
        FileNotFoundError: The folder is not a finished run; the message names what is missing.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, or failed.
    """
    missing = [name for name in NEEDED if not Path(run_folder, name).is_file()]
    if missing:
        raise FileNotFoundError(f"{str(run_folder)!r} is not a finished run folder: it lacks {', '.join(missing)}.")
    return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id


def push_run(
    run_folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    delete_patterns: list[str] | None = None,
) -> str:
    """
    Uploads a run folder to the Hub in one commit: model, code, tokenizer, card, results and picture.

    Checkpoints and Trainer's pickled arguments stay at home. The local folder is only read, so a push that fails can be
    repeated; what the Hub already has is not sent again.

    Args:
        run_folder: A folder that `wave-network finetune` left.
        repo_id: Name on the Hub, `user/name`; created if it does not exist.
        token: Access token. None: the one of `hf auth login` or `HF_TOKEN`.
        private: Whether a new repository is private. None: the account's default.
        revision: Branch to push to; created if it does not exist. None: main.
        create_pr: Whether to open a pull request instead of committing.
        commit_message: None: a plain one.
        delete_patterns: Which files of the repository to delete unless the folder has them. None: none.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        FileNotFoundError: The folder is not a finished run; the message names what is missing.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, or failed.
    """
    repo_id = resolve_repo(run_folder, repo_id, token=token, private=private)
    api = HfApi(token=token)
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=run_folder,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or "Upload Wave Network classifier",
        delete_patterns=delete_patterns,
        ignore_patterns=["checkpoint-*", "training_args.bin", "_saving-*", ".*.tmp", "trackio/*", "wandb/*"],
    )
    return commit.pr_url or commit.commit_url
