"""Trains both stages with the bundle's configuration and saves each rank's adapters as ``rank_<n>.pt``; a test's program.

FOLDER holds ``train.jsonl``; with a second argument the overlay for several ranks is laid over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow

from aaclip_med.training.ranks import find_rank
from aaclip_med.zoo.names import find_bundle


def main(index: str, out: str, batch_size: int, layers: list[str]) -> None:
    """Both stages, without what follows them."""
    workflow = ConfigWorkflow(
        config_file=[str(find_bundle() / "configs" / name) for name in layers],
        logging_file=False,
        workflow_type="train",
        run_id="training",
        index=index,
        output_dir=out,
        backbone="tiny",
        image_size=40,
        fidelity="paper",
        text_epochs=1,
        image_epochs=1,
        text_batch_size=batch_size,
        image_batch_size=batch_size,
        device="cpu",
    )
    workflow.parser["training"] = workflow.parser["training"][:3]
    workflow.initialize()
    workflow.run()
    state = workflow.parser.get_parsed_content("detector").adapter_state()
    torch.save(state, Path(out) / f"rank_{find_rank()[0]}.pt")
    workflow.finalize()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
