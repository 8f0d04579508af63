"""Shapes of a model's parameters from the ``config.json`` that Hugging Face's transformers stores with it.

Each family is one function from sizes to names and shapes, with the names that the model's own file uses.
Tied tables are listed once, as they are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FileFormatError
from .safetensors_shapes import json_object, read_bytes
from .shapes import ShapeDtype, Shapes, dtype_of, leaf_shape

Layout = dict[str, tuple[int, ...]]

CONFIG_LIMIT = 10_000_000
"""Longest configuration in bytes."""
LAYER_LIMIT = 10_000
"""Most layers that are written out."""


@dataclass(frozen=True)
class _Config:
    """A configuration whose values are checked when they are asked for."""

    file: str
    values: Mapping[str, Any]

    def size(self, key: str, default: int | None = None, limit: int = 2**40) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value <= limit:
            got = f"{key} = {value!r}" if key in self.values else f"no {key!r}"
            advice = "Pass the config.json of a model of this type."
            raise FileFormatError(self.file, got, f"an integer from 1 to {limit}", advice)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise FileFormatError(self.file, f"{key} = {value!r}", "true or false", "Correct the file.")
        return value

    def layers(self, key: str) -> range:
        return range(self.size(key, limit=LAYER_LIMIT))


def _linear(name: str, fan_out: int, fan_in: int, bias: bool = True) -> Layout:
    return {f"{name}.weight": (fan_out, fan_in)} | ({f"{name}.bias": (fan_out,)} if bias else {})


def _norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _under(prefix: str, layout: Layout) -> Layout:
    return {f"{prefix}.{name}": shape for name, shape in layout.items()}


def _bert_encoder(c: _Config, pooler: bool = True) -> Layout:
    d, inner = c.size("hidden_size"), c.size("intermediate_size")
    layout = {
        "embeddings.word_embeddings.weight": (c.size("vocab_size"), d),
        "embeddings.position_embeddings.weight": (c.size("max_position_embeddings"), d),
        "embeddings.token_type_embeddings.weight": (c.size("type_vocab_size", 2), d),
    } | _norm("embeddings.LayerNorm", d)
    for i in c.layers("num_hidden_layers"):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            layout |= _linear(f"{layer}.attention.self.{name}", d, d)
        layout |= _linear(f"{layer}.attention.output.dense", d, d)
        layout |= _norm(f"{layer}.attention.output.LayerNorm", d)
        layout |= _linear(f"{layer}.intermediate.dense", inner, d)
        layout |= _linear(f"{layer}.output.dense", d, inner)
        layout |= _norm(f"{layer}.output.LayerNorm", d)
    return layout | (_linear("pooler.dense", d, d) if pooler else {})


def _bert(c: _Config, architecture: str) -> Layout:
    if architecture == "BertModel":
        return _bert_encoder(c)
    d, words = c.size("hidden_size"), c.size("vocab_size")
    layout = _under("bert", _bert_encoder(c, pooler=architecture == "BertForPreTraining"))
    layout |= {"cls.predictions.bias": (words,)}
    layout |= _linear("cls.predictions.transform.dense", d, d)
    layout |= _norm("cls.predictions.transform.LayerNorm", d)
    if not c.flag("tie_word_embeddings", True):
        layout |= _linear("cls.predictions.decoder", words, d)
    if architecture == "BertForPreTraining":
        layout |= _linear("cls.seq_relationship", 2, d)
    return layout


def _gpt2(c: _Config, architecture: str) -> Layout:
    d, words = c.size("n_embd"), c.size("vocab_size")
    inner = c.size("n_inner", 4 * d)
    layout: Layout = {"wte.weight": (words, d), "wpe.weight": (c.size("n_positions"), d)}
    for i in c.layers("n_layer"):
        layout |= _norm(f"h.{i}.ln_1", d) | _norm(f"h.{i}.ln_2", d)
        # GPT-2 stores its matrices as (in, out).
        for name, fan_in, fan_out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, inner),
            ("mlp.c_proj", inner, d),
        ):
            layout |= {f"h.{i}.{name}.weight": (fan_in, fan_out), f"h.{i}.{name}.bias": (fan_out,)}
    layout |= _norm("ln_f", d)
    if architecture == "GPT2Model":
        return layout
    untied = {} if c.flag("tie_word_embeddings", True) else _linear("lm_head", words, d, bias=False)
    return _under("transformer", layout) | untied


def _llama(c: _Config, architecture: str) -> Layout:
    d, inner, words = c.size("hidden_size"), c.size("intermediate_size"), c.size("vocab_size")
    heads, family = c.size("num_attention_heads"), c.values["model_type"]
    width = c.size("head_dim", 128 if family == "qwen3" else d // heads)
    query, shared = heads * width, c.size("num_key_value_heads", heads) * width
    bias = family in ("llama", "qwen3") and c.flag("attention_bias", False)
    mlp_bias = family == "llama" and c.flag("mlp_bias", False)
    layout: Layout = {"embed_tokens.weight": (words, d)}
    for i in c.layers("num_hidden_layers"):
        layer = f"layers.{i}"
        for name, fan_out in (("q_proj", query), ("k_proj", shared), ("v_proj", shared)):
            layout |= _linear(f"{layer}.self_attn.{name}", fan_out, d, bias or family == "qwen2")
        layout |= _linear(f"{layer}.self_attn.o_proj", d, query, bias)
        if family == "qwen3":
            layout |= {f"{layer}.self_attn.{name}.weight": (width,) for name in ("q_norm", "k_norm")}
        layout |= _linear(f"{layer}.mlp.gate_proj", inner, d, mlp_bias)
        layout |= _linear(f"{layer}.mlp.up_proj", inner, d, mlp_bias)
        layout |= _linear(f"{layer}.mlp.down_proj", d, inner, mlp_bias)
        layout |= {f"{layer}.input_layernorm.weight": (d,), f"{layer}.post_attention_layernorm.weight": (d,)}
    layout["norm.weight"] = (d,)
    if not architecture.endswith("ForCausalLM"):
        return layout
    tied = c.flag("tie_word_embeddings", False)
    return _under("model", layout) | ({} if tied else _linear("lm_head", words, d, bias=False))


def _t5_stack(c: _Config, layers: range, decoder: bool) -> Layout:
    d, inner, heads = c.size("d_model"), c.size("d_ff"), c.size("num_heads")
    width = heads * c.size("d_kv")
    gated = str(c.values.get("feed_forward_proj", "relu")).startswith("gated-")
    attention = ("SelfAttention", "EncDecAttention") if decoder else ("SelfAttention",)
    layout: Layout = {}
    for i in layers:
        for j, kind in enumerate(attention):
            for name in ("q", "k", "v"):
                layout[f"block.{i}.layer.{j}.{kind}.{name}.weight"] = (width, d)
            layout[f"block.{i}.layer.{j}.{kind}.o.weight"] = (d, width)
            layout[f"block.{i}.layer.{j}.layer_norm.weight"] = (d,)
        last = f"block.{i}.layer.{len(attention)}"
        layout |= {
            f"{last}.DenseReluDense.{n}.weight": (inner, d) for n in (("wi_0", "wi_1") if gated else ("wi",))
        }
        layout |= {f"{last}.DenseReluDense.wo.weight": (d, inner), f"{last}.layer_norm.weight": (d,)}
    buckets = (c.size("relative_attention_num_buckets", 32), heads)
    layout["block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = buckets
    return layout | {"final_layer_norm.weight": (d,)}


def _t5(c: _Config, architecture: str) -> Layout:
    d, words, depth = c.size("d_model"), c.size("vocab_size"), c.layers("num_layers")
    layout: Layout = {"shared.weight": (words, d)} | _under("encoder", _t5_stack(c, depth, decoder=False))
    if architecture == "T5EncoderModel":
        return layout
    depth = c.layers("num_decoder_layers") if c.values.get("num_decoder_layers") else depth
    layout |= _under("decoder", _t5_stack(c, depth, decoder=True))
    # The file's word is taken; transformers 5 ties every T5 it builds, whatever its file says.
    tied = architecture == "T5Model" or c.flag("tie_word_embeddings", True)
    return layout | ({} if tied else _linear("lm_head", words, d, bias=False))


#: model_type -> (its layout, its architectures; the first is taken where the file names none).
FAMILIES: dict[str, tuple[Callable[[_Config, str], Layout], tuple[str, ...]]] = {
    "bert": (_bert, ("BertModel", "BertForPreTraining", "BertForMaskedLM")),
    "gpt2": (_gpt2, ("GPT2LMHeadModel", "GPT2Model")),
    "llama": (_llama, ("LlamaForCausalLM", "LlamaModel")),
    "mistral": (_llama, ("MistralForCausalLM", "MistralModel")),
    "qwen2": (_llama, ("Qwen2ForCausalLM", "Qwen2Model")),
    "qwen3": (_llama, ("Qwen3ForCausalLM", "Qwen3Model")),
    "t5": (_t5, ("T5ForConditionalGeneration", "T5Model", "T5EncoderModel")),
}


def shapes_from_hf_config(path: str | Path, dtype: Any = None, architecture: str | None = None) -> Shapes:
    """Shapes of all trained parameters of the model that a ``config.json`` describes.

    Parameters
    ----------
    path : path
        The file.
    dtype : dtype, optional
        Of the parameters; by default what the file says, or float32.
    architecture : str, optional
        Such as ``"BertForPreTraining"``; by default what the file says, or the first of its family.

    Returns
    -------
    dict
        Path to :class:`~memopt_ref.shapes.ShapeDtype`, with the names of the model's own file.

    Raises
    ------
    FileFormatError
        Not such a file, or a family or architecture that is not known here.

    Examples
    --------
    >>> import json, tempfile
    >>> sizes = {"n_embd": 768, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "config.json")
    ...     _ = file.write_text(json.dumps({"model_type": "gpt2"} | sizes))
    ...     sum(leaf.size for leaf in shapes_from_hf_config(file).values())
    124439808
    """
    path = Path(path)
    values = json_object(path, read_bytes(path, 0, CONFIG_LIMIT))
    family, named = values.get("model_type"), values.get("architectures")
    if not isinstance(family, str) or family not in FAMILIES:
        wanted = "one of " + ", ".join(FAMILIES)
        advice = "Plan from the safetensors file, whose header has the shapes of any model."
        raise FileFormatError(str(path), f"model_type {family!r}", wanted, advice)
    layout, known = FAMILIES[family]
    architecture = architecture or (named[0] if isinstance(named, list) and named else known[0])
    if architecture not in known:
        advice = "Choose an architecture, or plan from the safetensors file."
        raise FileFormatError(
            str(path), f"architecture {architecture!r}", "one of " + ", ".join(known), advice
        )
    config = _Config(str(path), values)
    if config.flag("add_cross_attention", False):
        raise FileFormatError(
            str(path), "add_cross_attention", "a model of one stack", "Plan from safetensors."
        )
    chosen = dtype_of(dtype or values.get("dtype") or values.get("torch_dtype") or "float32", str(path))
    return {
        name: leaf_shape(name, ShapeDtype(shape, chosen), chosen)
        for name, shape in layout(config, architecture).items()
    }
