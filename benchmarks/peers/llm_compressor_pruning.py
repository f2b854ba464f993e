"""llm-compressor: SparseGPT and Wanda, each with the library's defaults, one forward pass a window."""

from __future__ import annotations

import re

from shared import float_model, job, linears, tell, timed, windows, write

WANTED = job()  # `pattern` (2:4) and `on` (a regular expression over names of linears) in place of bits and block


def main() -> None:
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    ids = windows(WANTED).tolist()
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    kinds = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
    model = float_model(WANTED)
    targets = [name for name in linears(model) if re.search(WANTED["on"], name)]
    kept, _, group = WANTED["pattern"].partition(":")
    modifier = kinds[WANTED["method"]](
        sparsity=1 - int(kept) / int(group), mask_structure=WANTED["pattern"], targets=targets
    )
    _, facts = timed(
        lambda: oneshot(
            model=model, dataset=data, recipe=[modifier], num_calibration_samples=len(ids), max_seq_length=len(ids[0])
        )
    )
    with torch.no_grad():
        weights = {f"{name}.weight": linears(model)[name].weight.float().numpy() for name in targets}
    for name, array in weights.items():
        groups = array.reshape(-1, int(group))
        if ((groups != 0).sum(1) > int(kept)).any():
            raise ValueError(f"{name} is not {WANTED['pattern']}")
    write(WANTED, weights)
    tell(facts)


if __name__ == "__main__":
    main()
