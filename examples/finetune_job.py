# /// script
# requires-python = ">=3.10"
# dependencies = ["wave-network"]
#
# [tool.uv.sources]
# wave-network = { path = ".." } # this clone; on another machine `{ git = "..." }`, with the address of your copy
# ///
"""Fine-tune in one line, without an environment: `uv run examples/finetune_job.py reviews.csv [user/name] [settings]`.

uv makes the environment from the lines above. DATASET and settings are those of `wave-network finetune`. With a name on
the Hub the model is pushed there, by the account of `HF_TOKEN`: a job leaves nothing else behind.
"""

import sys

from wave_network.cli import main as wave_network


def main(dataset: str, *words: str) -> None:
    repository = words[:1] if words and not words[0].startswith("-") else ()
    wave_network(["finetune", "--dataset", dataset, "--output_dir", "runs/job", *words[len(repository) :]])
    if repository:
        wave_network(["push", "runs/job", *repository])


if __name__ == "__main__":
    main(*sys.argv[1:])
