"""Reading EAGLE-3 heads as published: SafeAILab / AngelSlim / Tengyunw, SpecForge, and speculators
(vLLM) layouts.

Strict on names and shapes: a misnamed tensor would silently be a randomly initialised one. What
differs between the dialects is settled here and becomes one `HeadConfig`."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.eagle3.head import Eagle3Head, HeadConfig
from model.errors import UserError, first_line


def default_layers(layers: int) -> tuple[int, ...]:
    """Layers whose entering stream is captured: {2, N//2, N-3}, ascending."""
    return 2, layers // 2, layers - 3


def load_head(path: str, target_config: Any, vocab_size: int) -> Eagle3Head:
    """The head in folder or hub repository `path`, checked against its target (fp32; move and cast
    it yourself).
    """
    folder = _folder(path)
    config = _read_json(folder / "config.json")
    tensors = _canonical(_tensors(folder))
    shape = head_config(config, tensors, target_config, vocab_size, path)
    head = Eagle3Head(shape)
    membership = tensors.pop("t2d", None)
    if shape.draft_vocab == shape.vocab:
        tensors.setdefault("d2t", torch.zeros(shape.vocab, dtype=torch.long))
    _check(head, tensors, path)
    head.load_state_dict({k: v.long() if k == "d2t" else v.float() for k, v in tensors.items()})
    _check_vocabulary(head.d2t, membership, shape, path)
    return head.eval().requires_grad_(False)


def head_config(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    target_config: Any,
    vocab_size: int,
    path: str,
) -> HeadConfig:
    """Settle the dialects' differences; sizes come from the tensors where these say more than the
    config.
    """
    speculators = (
        config.get("speculators_model_type") == "eagle3" or "transformer_layer_config" in config
    )
    layer = config.get("transformer_layer_config", config)
    missing = [
        k
        for k in ("fc.weight", "midlayer.self_attn.q_proj.weight", "lm_head.weight")
        if k not in tensors
    ]
    if missing:
        raise UserError(
            f"{path} is no EAGLE-3 head: {', '.join(missing)} not found"
            f" among its {len(tensors)} tensors"
        )
    hidden, fused = tensors["fc.weight"].shape
    target_hidden = target_config.hidden_size
    if fused != 3 * target_hidden:
        raise UserError(
            f"{path} is a head for a target of hidden size {fused // 3};"
            f" this target has {target_hidden}"
        )
    own_embeddings = "embed_tokens.weight" in tensors
    if hidden != target_hidden and not own_embeddings:
        raise UserError(
            f"{path}: a head of hidden size {hidden} for a target of {target_hidden}"
            " must carry its own embeddings"
        )
    declared = layer.get("vocab_size", vocab_size)
    if declared != vocab_size:
        raise UserError(
            f"{path} is a head for a vocabulary of {declared}; this target's has {vocab_size}"
        )
    heads = layer.get("num_attention_heads")
    if not heads:
        raise UserError(f"{path}: its config.json names no num_attention_heads")
    rope = layer.get("rope_parameters") or {}
    return HeadConfig(
        hidden=hidden,
        intermediate=tensors["midlayer.mlp.gate_proj.weight"].shape[0],
        heads=heads,
        kv_heads=layer.get("num_key_value_heads", heads),
        head_dim=tensors["midlayer.self_attn.q_proj.weight"].shape[0] // heads,
        vocab=vocab_size,
        draft_vocab=tensors["lm_head.weight"].shape[0],
        target_hidden=target_hidden,
        feature_layers=_layers(config, target_config, speculators, path),
        eps=layer.get("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(layer, rope),
        trained_length=layer.get("max_position_embeddings", 2048),
        own_embeddings=own_embeddings,
        qk_norm="midlayer.self_attn.q_norm.weight" in tensors,
        norm_before_residual=bool(config.get("norm_before_residual", False)),
        norm_before_fc="input_norm.weight" in tensors,
        fc_norm="fc_norm.0.weight" in tensors,
        feed_normed=speculators and bool(config.get("norm_output", False)),
    )


def _rope_theta(layer: dict[str, Any], rope: dict[str, Any]) -> float:
    """10000 where no base is named (the published Llama head has none, though its target uses
    500000).
    """
    scaling = layer.get("rope_scaling")
    kind = (scaling or rope).get("rope_type") or (scaling or {}).get("type")
    if kind not in (None, "default"):
        raise UserError(f"EAGLE-3 heads with scaled rotary embeddings ('{kind}') are not supported")
    return float(layer.get("rope_theta") or rope.get("rope_theta") or 10_000.0)


def _layers(
    config: dict[str, Any], target_config: Any, speculators: bool, path: str
) -> tuple[int, ...]:
    """Entering-stream layer ids. SpecForge's lists name the layer whose *output* is taken: one
    less.
    """
    total = target_config.num_hidden_layers
    name = "eagle_aux_hidden_state_layer_ids"
    listed = config.get(name) or (config.get("eagle_config") or {}).get(name)
    if not listed:
        if total < 7:
            raise UserError(
                f"{path} names no feature layers, and the rule 2, N/2, N-3 needs 7 layers;"
                f" the target has {total}"
            )
        return default_layers(total)
    layers = tuple(sorted(int(layer) for layer in listed))
    is_specforge = not speculators and "LlamaForCausalLMEagle3" in (
        config.get("architectures") or []
    )
    if is_specforge and not config.get("entering_layers"):
        layers = tuple(layer + 1 for layer in layers)
    if len(layers) != 3 or layers[0] < 0 or layers[-1] >= total:
        raise UserError(
            f"{path} wants features of layers {layers}; the target has layers 0 to {total - 1}"
        )
    return layers


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"EAGLE-3 head {path} is not a folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.bin", "*.safetensors"]))
    except Exception as error:
        raise UserError(
            f"cannot fetch the EAGLE-3 head '{path}': {type(error).__name__};"
            " copy it here and give its folder with --eagle-head"
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the head's {file}: {error}") from None


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder's weights, in either file format."""
    tensors: dict[str, torch.Tensor] = {}
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    for file in files:
        try:
            tensors.update(_read_tensors(file))
        except (
            SafetensorError,
            RuntimeError,
            EOFError,
            OSError,
            ValueError,
            UnpicklingError,
        ) as error:
            raise UserError(f"{file} is damaged: {first_line(error)}; copy it again") from None
    return tensors


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _canonical(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without wrappers' prefixes, the layer called `midlayer`."""
    renamed = {}
    for name, tensor in tensors.items():
        for prefix in ("draft_model.", "model."):
            name = name.removeprefix(prefix)
        if "rotary_emb" not in name:
            renamed[name.replace("layers.0.", "midlayer.")] = tensor
    return renamed


def _check(head: Eagle3Head, tensors: dict[str, torch.Tensor], path: str) -> None:
    expected = {name: tuple(t.shape) for name, t in head.state_dict().items()}
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise UserError(
            f"{path}: tensors missing: {', '.join(missing) or 'none'};"
            f" not understood: {', '.join(unknown) or 'none'}"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, {shape} is expected"
            )


def _check_vocabulary(
    d2t: torch.Tensor, membership: torch.Tensor | None, shape: HeadConfig, path: str
) -> None:
    """Draft ids must map into the target's vocabulary, one to one, and agree with t2d where that is
    given.
    """
    ids = torch.arange(len(d2t)) + d2t
    if ids.min() < 0 or ids.max() >= shape.vocab or len(ids.unique()) != len(ids):
        raise UserError(f"{path}: d2t does not map the draft vocabulary into the target's")
    if (
        membership is not None
        and shape.draft_vocab != shape.vocab
        and (int(membership.sum()) != len(d2t) or not bool(membership[ids].all()))
    ):
        raise UserError(f"{path}: d2t and t2d contradict each other")


def save_head(head: Eagle3Head, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a head in the layout of the public checkpoints, its weights in bfloat16."""
    from safetensors.torch import save_file

    c = head.config
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab,
        "draft_vocab_size": c.draft_vocab,
        "num_hidden_layers": 1,
        "rms_norm_eps": c.eps,
        "rope_theta": c.rope_theta,
        "max_position_embeddings": c.trained_length,
        "eagle_aux_hidden_state_layer_ids": list(c.feature_layers),
        "entering_layers": True,
        **(extra or {}),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {
        k: v if k == "d2t" else v.to(torch.bfloat16).contiguous()
        for k, v in head.state_dict().items()
    }
    tensors["t2d"] = torch.zeros(c.vocab, dtype=torch.bool).index_fill(
        0, torch.arange(c.draft_vocab) + head.d2t, True
    )
    save_file(tensors, folder / "model.safetensors")
