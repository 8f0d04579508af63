"""Record ``hf_shapes.json``: names and shapes of the parameters that transformers gives to a configuration.

    python tests/golden/record_hf_shapes.py

Models are built on torch's meta device, so that nothing is allocated. Small ones are recorded by name, real
ones by their number of tensors and parameters. Needs torch and transformers.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
BERT |= {"vocab_size": 20, "max_position_embeddings": 10, "type_vocab_size": 3}
GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 10, "vocab_size": 20}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "vocab_size": 20,
}
T5 = {"d_model": 8, "d_kv": 3, "d_ff": 12, "num_layers": 2, "num_heads": 2, "vocab_size": 20}

SMALL = [
    ("BertModel", BERT),
    ("BertForPreTraining", BERT),
    ("BertForMaskedLM", BERT),
    ("BertForMaskedLM", BERT | {"tie_word_embeddings": False}),
    ("GPT2Model", GPT2),
    ("GPT2LMHeadModel", GPT2 | {"n_inner": 24}),
    ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False}),
    ("LlamaModel", LLAMA),
    ("LlamaForCausalLM", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", LLAMA | {"num_key_value_heads": 1, "head_dim": 6, "tie_word_embeddings": True}),
    ("MistralForCausalLM", LLAMA | {"num_key_value_heads": 2}),
    ("Qwen2ForCausalLM", LLAMA | {"num_key_value_heads": 2}),
    ("Qwen3ForCausalLM", LLAMA | {"num_key_value_heads": 2}),
    ("Qwen3ForCausalLM", LLAMA | {"num_key_value_heads": 2, "head_dim": 4, "attention_bias": True}),
    ("T5Model", T5),
    ("T5EncoderModel", T5),
    ("T5ForConditionalGeneration", T5 | {"num_decoder_layers": 3, "relative_attention_num_buckets": 5}),
    ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
]

GPT2_SMALL = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
BERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
BERT_LARGE |= {"vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
LLAMA_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
}
LLAMA_7B |= {"vocab_size": 32000}
QWEN2_HALF_B = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "intermediate_size": 4864,
}
QWEN2_HALF_B |= {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}

REAL = [
    ("GPT-2", "GPT2LMHeadModel", GPT2_SMALL),
    ("BERT-large", "BertModel", BERT_LARGE),
    ("BERT-large with MLM and NSP heads", "BertForPreTraining", BERT_LARGE),
    ("LLaMA-7B", "LlamaForCausalLM", LLAMA_7B),
    ("Mistral-7B", "MistralForCausalLM", LLAMA_7B | {"intermediate_size": 14336, "num_key_value_heads": 8}),
    ("Qwen2-0.5B", "Qwen2ForCausalLM", QWEN2_HALF_B),
    ("T5-base", "T5ForConditionalGeneration", {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12}),
]
REAL[-1][2].update(num_heads=12, vocab_size=32128)


def parameters(architecture: str, overrides: dict) -> tuple[dict, dict]:
    """The configuration as transformers stores it, and shape by name."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    config = kind.config_class(**overrides, architectures=[architecture])
    with torch.device("meta"):
        model = kind(config)
    return config.to_dict(), {name: "x".join(map(str, p.shape)) for name, p in model.named_parameters()}


def stored(config: dict, overrides: dict) -> dict:
    """What a configuration says about sizes: what was given, and every other number, flag and family name."""
    words = ("model_type", "architectures", "feed_forward_proj")
    kept = {
        k: v for k, v in config.items() if k in words or (isinstance(v, int) and not k.endswith("token_id"))
    }
    return dict(sorted((kept | overrides).items()))


def record() -> dict:
    """Everything that the file holds."""
    import torch
    import transformers

    small, real = [], []
    for architecture, overrides in SMALL:
        config, shapes = parameters(architecture, overrides)
        small.append({"config": stored(config, overrides), "shapes": shapes})
    for name, architecture, overrides in REAL:
        config, shapes = parameters(architecture, overrides)
        count = sum(prod(map(int, shape.split("x"))) for shape in shapes.values())
        real.append(
            {"name": name, "config": stored(config, overrides), "tensors": len(shapes), "parameters": count}
        )
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "small": small,
        "real": real,
    }


if __name__ == "__main__":
    text = json.dumps(record(), indent=1)
    Path(__file__).with_name("hf_shapes.json").write_text(text + "\n")
