"""The configs of the tiny models: one for every architecture, and variants of some."""

from __future__ import annotations

import transformers as hf

VOCABULARY = 67
LAYERS = 3
PAD = 0

_ENCODER = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "num_labels": 2,
}
_BERT = {
    **_ENCODER,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
_ROBERTA = {**_BERT, "pad_token_id": 1}  # as released: positions begin at row 2
_ELECTRA = {**_BERT, "embedding_size": 16}  # projected to the hidden size
_MPNET = {**_ROBERTA, "relative_attention_num_buckets": 32}
_MODERNBERT = {
    **_BERT,
    **{"bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1},
    "local_attention": 8,  # fewer than the tokens of a batch
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}
_DISTILBERT = {**_ENCODER, "dim": 24, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 20}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 6,  # not hidden_size / heads, as in some released models
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
    "num_labels": 2,
}
_MISTRAL = {**_LLAMA, "sliding_window": 4}  # fewer than the tokens of a batch
_QWEN2 = {**_LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2}
del _QWEN2["head_dim"]  # hidden_size / heads in this architecture
_MIXED_WINDOWS = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "ffn_dim": 20,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
    "num_labels": 2,
}
# Alternating windows, soft caps low enough to be felt.
_GEMMA = {
    **_LLAMA,
    "query_pre_attn_scalar": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_GEMMA2 = {**_GEMMA, "sliding_window": 8, "attn_logit_softcapping": 2.0}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 24,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_inner": 20,
    "n_positions": 40,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
    "num_labels": 2,
}
# OPT-350m: norms after the sums, word embeddings of a size of their own.
_POST_NORM = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
_BARE = {"tie_word_embeddings": False, "enable_bias": False, "layer_norm_elementwise_affine": False}
PICO_CONFIGS: dict[str, hf.PreTrainedConfig] = {
    "bert": hf.BertConfig(**_BERT),
    "roberta": hf.RobertaConfig(**_ROBERTA),
    "xlm_roberta": hf.XLMRobertaConfig(**_ROBERTA),
    "camembert": hf.CamembertConfig(**_ROBERTA),
    "electra": hf.ElectraConfig(**_ELECTRA),
    "mpnet": hf.MPNetConfig(**_MPNET),
    "modernbert": hf.ModernBertConfig(**_MODERNBERT),
    "distilbert": hf.DistilBertConfig(**_DISTILBERT),
    "llama_grouped": hf.LlamaConfig(**_LLAMA),
    "llama_multi_head": hf.LlamaConfig(**{**_LLAMA, "num_key_value_heads": 6}),
    "llama_multi_query": hf.LlamaConfig(**{**_LLAMA, "num_key_value_heads": 1}),
    "llama_tied": hf.LlamaConfig(**_LLAMA, tie_word_embeddings=True),
    "llama_bias": hf.LlamaConfig(**_LLAMA, attention_bias=True, mlp_bias=True),
    "mistral": hf.MistralConfig(**_MISTRAL),
    "mistral_multi_query": hf.MistralConfig(**{**_MISTRAL, "num_key_value_heads": 1}),
    "qwen2": hf.Qwen2Config(**_QWEN2),
    "qwen2_tied": hf.Qwen2Config(**_QWEN2, tie_word_embeddings=True),
    "qwen2_mixed": hf.Qwen2Config(**_QWEN2, **_MIXED_WINDOWS),
    "qwen3": hf.Qwen3Config(**_LLAMA),
    "smollm3": hf.SmolLM3Config(**_QWEN2, no_rope_layer_interval=2),
    "olmo2": hf.Olmo2Config(**_QWEN2),
    "gemma2": hf.Gemma2Config(**_GEMMA2, final_logit_softcapping=3.0),
    "gemma3": hf.Gemma3TextConfig(**_GEMMA, sliding_window=4),
    "phi3": hf.Phi3Config(**_QWEN2, sliding_window=4),
    "gpt2": hf.GPT2Config(**_GPT2),
    "opt": hf.OPTConfig(**_OPT),  # tied, as released
    "opt_post_norm": hf.OPTConfig(**_OPT, **_POST_NORM),
    "opt_bare": hf.OPTConfig(**_OPT, **_BARE),
}
PICO_NAMES = tuple(PICO_CONFIGS)
LLAMA_NAMES = tuple(name for name in PICO_NAMES if name.startswith("llama"))
_ENCODER_HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
)
_DECODER_HEADS = (
    "Model",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
ENCODERS = (
    *("bert", "roberta", "xlm_roberta", "camembert", "electra"),
    *("mpnet", "modernbert", "distilbert"),
)
DECODER_NAMES = tuple(name for name in PICO_NAMES if name not in ENCODERS)
# One pico model for every architecture, and every supported (pico model, head) pair of these.
REPRESENTATIVES = (
    *(*ENCODERS, "llama_grouped", "mistral", "qwen2", "qwen3", "smollm3", "olmo2"),
    *("gemma2", "gemma3", "phi3", "gpt2", "opt"),
)
_NO_HEADS = {  # transformers has none
    "olmo2": ("ForTokenClassification", "ForQuestionAnswering"),
    "gemma2": ("ForQuestionAnswering",),
    "gemma3": ("ForTokenClassification", "ForQuestionAnswering"),
    "phi3": ("ForQuestionAnswering",),
    "opt": ("ForTokenClassification",),
}
PICO_HEADS = tuple(
    (name, head)
    for name in REPRESENTATIVES
    for head in (_ENCODER_HEADS if name in ENCODERS else _DECODER_HEADS)
    if head not in _NO_HEADS.get(name, ())
)
