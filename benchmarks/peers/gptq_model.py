"""gptqmodel: GPTQ with the library's defaults; read back through its own torch kernel."""

from __future__ import annotations

import os
import tempfile

from shared import SKIPPED, job, tell, timed, windows, write

WANTED = job()
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it needs two, and takes half the cores


def main() -> None:
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    ids = torch.from_numpy(windows(WANTED)).long()
    data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in ids]
    settings = QuantizeConfig(bits=WANTED["bits"], group_size=WANTED["block"], sym=WANTED["symmetric"])
    settings.offload_to_disk = False
    model = GPTQModel.load(WANTED["model"], settings, device="cpu", dtype=torch.float32)
    _, facts = timed(lambda: model.quantize(data, batch_size=8, backend=BACKEND.TORCH))
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        made = GPTQModel.load(folder, backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
        weights = {}
        for name, part in made.model.named_modules():
            if hasattr(part, "dequantize_weight") and not name.endswith(SKIPPED):
                with torch.no_grad():
                    weights[f"{name}.weight"] = part.dequantize_weight().T.float().numpy()
    write(WANTED, weights)
    tell(facts)


if __name__ == "__main__":
    main()
