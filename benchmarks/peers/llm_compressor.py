"""llm-compressor: GPTQ and AWQ, each with the library's defaults, one forward pass a window."""

from __future__ import annotations

from shared import float_model, job, tell, timed, windows, write

WANTED = job()


def main() -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from datasets import Dataset
    from llmcompressor import oneshot

    ids = windows(WANTED).tolist()
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    args = QuantizationArgs(
        num_bits=WANTED["bits"], type="int", symmetric=WANTED["symmetric"], strategy="group", group_size=WANTED["block"]
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=args)}
    if WANTED["method"] == "gptq":
        from llmcompressor.modifiers.gptq import GPTQModifier

        recipe = [GPTQModifier(config_groups=groups, ignore=["lm_head"])]
    else:
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier

        torch.Tensor.pin_memory = lambda self, *_: (
            self
        )  # its cache pins pages, which torch refuses without an accelerator
        recipe = [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
    model = float_model(WANTED)
    _, facts = timed(
        lambda: oneshot(
            model=model, dataset=data, recipe=recipe, num_calibration_samples=len(ids), max_seq_length=len(ids[0])
        )
    )
    weights = {}
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, torch.nn.Linear) and hasattr(part, "weight_scale"):
                made = fake_quantize(
                    part.weight, part.weight_scale, getattr(part, "weight_zero_point", None), args,
                    getattr(part, "weight_g_idx", None),
                )  # fmt: skip
                weights[f"{name}.weight"] = made.float().numpy()
        for name, part in model.named_modules():  # AWQ scales the norms
            if name.endswith("norm") and hasattr(part, "weight"):
                weights[f"{name}.weight"] = part.weight.float().numpy()
        for name, value in model.named_parameters():
            if name.endswith(".bias"):
                weights[name] = value.float().numpy()
    write(WANTED, weights)
    tell(facts)


if __name__ == "__main__":
    main()
