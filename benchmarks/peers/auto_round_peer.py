"""auto-round: SignRound with the library's default recipe (200 steps a block), or its light one (50, a larger rate)."""

from __future__ import annotations

from shared import SKIPPED, float_model, job, tell, timed, windows, write

WANTED = job()
RECIPES = {"signround": {}, "signround light": {"iters": 50, "lr": 5e-3}}  # as its command line has them


def main() -> None:
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    ids = torch.from_numpy(windows(WANTED)).long()
    model, tokenizer = float_model(WANTED), AutoTokenizer.from_pretrained(WANTED["model"])
    data = torch.utils.data.DataLoader([{"input_ids": row} for row in ids], batch_size=8)
    tool = AutoRound(
        model, tokenizer, bits=WANTED["bits"], group_size=WANTED["block"], sym=WANTED["symmetric"], dataset=data,
        nsamples=len(ids), seqlen=ids.shape[1], device_map="cpu", data_type="int", act_bits=16,
        **RECIPES[WANTED["method"]],
    )  # fmt: skip
    (made, _), facts = timed(tool.quantize)
    with torch.no_grad():
        weights = {
            f"{name}.weight": part.weight.float().numpy()
            for name, part in made.named_modules()
            if isinstance(part, torch.nn.Linear) and not name.endswith(SKIPPED)
        }
    write(WANTED, weights)
    tell(facts)


if __name__ == "__main__":
    main()
