"""Any pretrained encoder and decoder of Hugging Face, joined by a connector not yet trained.

Each is given by the name of a repository or as a local folder. What comes out is what a
training run starts from: a configuration, both networks with the pretrained weights, and the
tokenizers, each with the special tokens that the networks need.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils import logging

from larimar.checkpoint import Networks, attention_code, without_pooler
from larimar.config import ConnectorLayout, LatentLayout, ModelConfig
from larimar.connector import Connector
from larimar.decoder import DecoderNetwork
from larimar.encoder import BUCKET_TOKENS, PooledEncoderNetwork, encoder_network
from larimar.errors import InvalidArgument, NotFound

DEFAULT_LATENT = LatentLayout(part_size=256)
"""Parts of twice the small model's size, for encoders of width 768 and 1024."""
LARGE_PARAMETERS = 2 * 10**9
"""Past this a decoder is served in bfloat16 on every machine: float32 is twice the memory."""
LEAST_WINDOW_TOKENS = 1024
"""Least window of attention: what a prompt, its answer and the slots in front of them may fill."""
HUB_TIMEOUT_S = 10.0
"""How long to look for a name on the network: one look, then one error."""
_NOT_OF_THE_MODEL = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
)
_BIDIRECTIONAL = ("bert", "roberta", "xlm-roberta", "electra", "camembert")


class BackboneParts(NamedTuple):
    """What a training run starts from."""

    config: ModelConfig
    networks: Networks
    encoder_tokenizer: Any
    decoder_tokenizer: Any


def backbone_recipe_parts(
    encoder: str,
    decoder: str,
    latent: LatentLayout | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> BackboneParts:
    """Loads two pretrained models and joins them; the connector and the latent's maps are fresh.

    Weights are read file by file straight into `dtype`: the peak is one copy of the model. The
    decoder's table of tokens is left as it was, so that without a latent it is the stock model
    to the bit, unless its tokenizer has no token to end a text with.

    Args:
        encoder: name of a Hugging Face repository, or a folder of such a model.
        decoder: the same.
        latent: ordered parts unless given; a pooled one also takes the reference's connector.
        dtype: of both backbones; the new maps are in float32.
        attention: the attention code of `transformers`; "sdpa" where the model has it.

    Raises:
        NotFound: a model is neither a folder nor in reach by name.
        InvalidArgument: a model is of a kind that cannot take the part.
    """
    latent = latent or DEFAULT_LATENT
    encoder_tokenizer = encoder_tokenizer_of(encoder)
    decoder_tokenizer = decoder_tokenizer_of(decoder)
    encoder_config, decoder_config = encoder_config_of(encoder), decoder_config_of(decoder)
    with _quiet():
        backbone = _weights(
            AutoModel, encoder, encoder_config, latent.kind == "pooled", dtype, attention
        )
        lm = _weights(AutoModelForCausalLM, decoder, decoder_config, True, dtype, attention)
        for model, tokenizer in ((backbone, encoder_tokenizer), (lm, decoder_tokenizer)):
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer))
    config = model_config(
        backbone.config,
        lm.config,
        latent,
        f"{Path(encoder).name}-{Path(decoder).name}",
        "bfloat16" if lm.num_parameters() > LARGE_PARAMETERS else "auto",
    )
    networks = Networks(
        config,
        encoder_network(backbone, latent),
        DecoderNetwork(lm, Connector(config.connector)),
    )
    _take_pooler(networks)
    check_decoder(networks.decoder, decoder)
    return BackboneParts(config, networks, encoder_tokenizer, decoder_tokenizer)


def model_config(
    encoder_config: Any,
    decoder_config: Any,
    latent: LatentLayout,
    name: str,
    decoder_dtype: str = "auto",
) -> ModelConfig:
    """The configuration of a model on two backbones, with limits that their positions allow."""
    layers, kv_heads, head_dim = decoder_geometry(decoder_config)
    shape = {
        "value_size": latent.value_size,
        "layers": layers,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_size": decoder_config.hidden_size,
    }
    pooled = latent.kind == "pooled"
    positions = getattr(decoder_config, "max_position_embeddings", 1024)
    new_tokens = min(128, positions // 4)
    return ModelConfig(
        name=name,
        encoder_backbone=_plain(encoder_config),
        decoder_backbone=_plain(decoder_config),
        latent=latent,
        connector=(
            ConnectorLayout.reference(**shape)
            if pooled
            else ConnectorLayout(slots=latent.slots, **shape)
        ),
        shared_embeddings=False,
        max_text_tokens=_text_limit(encoder_config),
        max_prompt_tokens=min(384, positions - new_tokens - 2),
        max_new_tokens=new_tokens,
        decoder_dtype=decoder_dtype,
    )


def decoder_geometry(config: Any) -> tuple[int, int, int]:
    """Layers, key/value heads and width of a head of a decoder's cache."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, kv_heads, head_dim


def encoder_config_of(source: str) -> Any:
    """The configuration of an encoder, its dropout off.

    Raises:
        NotFound: neither a folder nor in reach by name.
        InvalidArgument: it has a decoder of its own.
    """
    config = _pretrained(AutoConfig.from_pretrained, source)
    if getattr(config, "is_encoder_decoder", False):
        raise InvalidArgument(
            f"{source} is an encoder with a decoder: give an encoder such as bert-large-cased",
            "BAD_BACKBONE",
        )
    return _without_dropout(config)


def decoder_config_of(source: str) -> Any:
    """The configuration of a decoder, its dropout off; a BERT gets a causal mask.

    Raises: NotFound, InvalidArgument, as `encoder_config_of`.
    """
    config = _pretrained(AutoConfig.from_pretrained, source)
    if getattr(config, "is_encoder_decoder", False):
        raise InvalidArgument(
            f"{source} is an encoder with a decoder: give a causal language model such as gpt2",
            "BAD_BACKBONE",
        )
    if config.model_type in _BIDIRECTIONAL:
        config.is_decoder = True
    return _without_dropout(config)


def encoder_tokenizer_of(source: str) -> Any:
    """The tokenizer of an encoder, with tokens for start, end and padding."""
    tokenizer = _tokenizer(source)
    stand_ins = {
        "cls_token": (tokenizer.bos_token, tokenizer.eos_token),
        "sep_token": (tokenizer.eos_token, tokenizer.bos_token),
        "pad_token": (tokenizer.eos_token, tokenizer.sep_token),
    }
    for name, found in stand_ins.items():
        _complete(tokenizer, name, found, f"[{name[:3].upper()}]")
    return tokenizer


def decoder_tokenizer_of(source: str) -> Any:
    """The tokenizer of a decoder, with tokens for start, end and padding.

    A missing start or padding token is the end token, which leaves the model's table of tokens
    as it is; a missing end token is added.

    Raises:
        InvalidArgument: it puts a blank of its own before every text, also before one that goes on.
    """
    tokenizer = _tokenizer(source)
    _check_seam(tokenizer, source)
    if tokenizer.sep_token is None:
        _complete(tokenizer, "eos_token", (), "<EOS>")
    if tokenizer.cls_token is None:
        _complete(tokenizer, "bos_token", (tokenizer.eos_token,), "<BOS>")
    _complete(tokenizer, "pad_token", (tokenizer.eos_token, tokenizer.sep_token), "<PAD>")
    return tokenizer


def _check_seam(tokenizer: Any, source: str) -> None:
    """An answer is tokens after those of its prompt: they must be as in the whole text."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    whole = ids("the river")
    if whole != ids("the") + ids(" river") and whole == ids("the") + ids("river"):
        raise InvalidArgument(
            f"the tokenizer of {source} puts a blank before every text, so that an answer would "
            "begin with one too many: where it is Llama's, name LlamaTokenizer as tokenizer_class "
            "in its tokenizer_config.json",
            "BAD_BACKBONE",
        )


def check_decoder(network: DecoderNetwork, source: str) -> None:
    """Passes three tokens through a decoder, to see that the connector fits it.

    Raises:
        InvalidArgument: its cache holds something other than a key and a value a position, it
            sees a short window only, or its own forward pass does more than its layers and head.
    """
    layout = network.connector.layout
    window = getattr(network.lm.config, "sliding_window", None)
    if window and getattr(network.lm.config, "use_sliding_window", True):
        _check_window(source, window)
    ids_BT = torch.zeros((1, 3), dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT)
    refusal = f"the connector does not fit {source}: "
    with torch.inference_mode():
        try:
            stock = network.lm.eval()(input_ids=ids_BT, attention_mask=mask_BT, use_cache=True)
            shapes = {tuple(layer.keys.shape) for layer in stock.past_key_values.layers}
            ours = network.logits(network.hidden(ids_BT, mask_BT.bool()))
        except (AttributeError, TypeError) as error:
            raise InvalidArgument(f"{refusal}{error}", "BAD_BACKBONE") from error
    wanted = (1, layout.kv_heads, 3, layout.head_dim)
    if shapes != {wanted} or len(stock.past_key_values.layers) != layout.layers:
        raise InvalidArgument(
            f"{refusal}its {layout.layers} layers keep keys of {sorted(shapes)}, not {wanted}; "
            "give a decoder with plain or grouped-query attention in every layer",
            "BAD_BACKBONE",
        )
    if not torch.equal(ours, stock.logits):
        raise InvalidArgument(
            f"{refusal}its logits are not those of its head alone; give another decoder",
            "BAD_BACKBONE",
        )


def _check_window(source: str, window: int) -> None:
    if window < LEAST_WINDOW_TOKENS:
        raise InvalidArgument(
            f"{source} sees {window} tokens back, at least {LEAST_WINDOW_TOKENS} are needed",
            "BAD_BACKBONE",
        )


def _weights(
    kind: Any,
    source: str,
    config: Any,
    with_pooler: bool,
    dtype: torch.dtype,
    attention: str,
) -> Any:
    options = {} if with_pooler or kind is not AutoModel else without_pooler(config)
    model, report = _pretrained(
        kind.from_pretrained,
        source,
        config=config,
        dtype=dtype,
        attn_implementation=attention_code(attention),
        output_loading_info=True,
        **options,
    )
    if report["missing_keys"]:
        raise InvalidArgument(
            f"{source} lacks weights of a {config.model_type} model: "
            f"{sorted(report['missing_keys'])[:3]}",
            "BAD_BACKBONE",
        )
    return model


def _take_pooler(networks: Networks) -> None:
    """Moves a pretrained pooler from the backbone to where a pooled latent is made."""
    encoder = networks.encoder
    pretrained = getattr(encoder.backbone, "pooler", None)
    if isinstance(encoder, PooledEncoderNetwork) and pretrained is not None:
        encoder.pooler.load_state_dict(
            {key: tensor.float() for key, tensor in pretrained.dense.state_dict().items()}
        )
        encoder.backbone.pooler = None


def _tokenizer(source: str) -> Any:
    tokenizer = _pretrained(_whole_tokenizer, source)
    tokenizer.model_max_length = 10**9  # limits are ours to check, with an error of our own
    return tokenizer


def _whole_tokenizer(source: str, **options: Any) -> Any:
    """A tokenizer with a vocabulary: without its files, `transformers` makes an empty one."""
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError("there are no tokenizer files")
    return tokenizer


def _complete(tokenizer: Any, name: str, stand_ins: tuple[str | None, ...], new: str) -> None:
    if getattr(tokenizer, name) is None:
        found = [token for token in stand_ins if token is not None]
        tokenizer.add_special_tokens({name: found[0] if found else new})


def _pretrained(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What `load` reads from a folder, else from the local cache, else from the network."""
    try:
        return load(source, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        if Path(source).is_dir():
            raise _unfit(f"the folder {source}", error) from error
    try:
        HfApi().model_info(source, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of whichever library the hub is reached by
        raise NotFound(
            f"no model {source!r} in reach: give a local folder of it (config.json, tokenizer "
            "files and safetensors), or, where there is a network, its name on huggingface.co, "
            f"which is fetched once into the local cache ({_brief(error)})",
            "MODEL_NOT_FOUND",
        ) from error
    try:
        return load(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise _unfit(source, error) from error


def _unfit(source: str, error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"{source} does not hold the Hugging Face model that is wanted: {_brief(error)}",
        "BAD_BACKBONE",
    )


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _without_dropout(config: Any) -> Any:
    """Dropout off: text is seen once or twice, and a loss must not hang on a module's mode."""
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
            setattr(config, name, 0.0)
    return config


def _plain(config: Any) -> dict[str, Any]:
    fields = json.loads(json.dumps(config.to_diff_dict()))
    return {key: value for key, value in fields.items() if key not in _NOT_OF_THE_MODEL}


def _text_limit(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or BUCKET_TOKENS[-1]
    fitting = [size for size in BUCKET_TOKENS if size <= positions]
    if not fitting:
        raise InvalidArgument(
            f"the encoder has {positions} positions, at least {BUCKET_TOKENS[0]} are needed",
            "BAD_BACKBONE",
        )
    return fitting[-1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the reports of `transformers` on heads that are not used, and bars in a log."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
