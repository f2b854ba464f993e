"""A Hugging Face folder as an ONNX file with its past, as `optimum` names its inputs and outputs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

CALL = (3, 5)  # new tokens and past ones that the export is traced with


def export(folder: Path, file: Path, attention: str = "eager", half: bool = False, positions: bool = True) -> Path:
    """Write the model in `folder` to `file` by torch's exporter of traces, which needs no other package.

    `positions`: whether they are an input; else the model counts them from what is past.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.cache_utils import DynamicCache

    dtype = torch.float16 if half else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    class WithPast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, *rest):
            position_ids, past = (rest[0], rest[1:]) if positions else (None, rest)
            cache = DynamicCache()
            for layer in range(layers):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            made = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            present = made.past_key_values.layers
            return made.logits, *(x for layer in present for x in (layer.keys, layer.values))

    tokens, past = CALL
    values = [torch.randn(1, heads, past, size, dtype=dtype) for _ in range(2 * layers)]
    inputs = [torch.ones(1, tokens, dtype=torch.int64), torch.ones(1, past + tokens, dtype=torch.int64)]
    told = ["input_ids", "attention_mask"]
    if positions:
        inputs.append(torch.arange(past, past + tokens)[None])
        told.append("position_ids")
    names = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    total = "past_sequence_length + sequence_length"
    new = {0: "batch_size", 1: "sequence_length"}
    axes = {"input_ids": new, "position_ids": new, "logits": new, "attention_mask": {0: "batch_size", 1: total}}
    axes |= {f"past_key_values.{name}": {0: "batch_size", 2: "past_sequence_length"} for name in names}
    axes |= {f"present.{name}": {0: "batch_size", 2: total} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.onnx.export(
            WithPast(),
            (*inputs, *values),
            str(file),
            input_names=[*told, *(f"past_key_values.{n}" for n in names)],
            output_names=["logits", *(f"present.{name}" for name in names)],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        logging.disable(logging.NOTSET)
    return file
