"""Reading EAGLE-3 heads as published: SafeAILab / AngelSlim / Tengyunw, SpecForge, speculators.

Strict on names and shapes: a misnamed tensor would silently be a randomly initialised one. What
differs between the layouts is settled here and becomes one `HeadConfig`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.eagle3.head import Eagle3Head, HeadConfig
from model.errors import UserError, first_line
from model.network import check_finite

NEEDED = ("fc.weight", "midlayer.self_attn.q_proj.weight", "lm_head.weight")
"""Without these it is no EAGLE-3 head at all."""
LAYER_IDS = "eagle_aux_hidden_state_layer_ids"
FEWEST_LAYERS = 7
"""Of a target whose head names no feature layers."""
DEFAULT_ROPE_THETA = 10_000.0
"""Where a head names no base: the published Llama head does not, though its target uses 500000."""


def default_layers(layers: int) -> tuple[int, int, int]:
    """Layers whose entering stream is captured: {2, N//2, N-3}, ascending."""
    return 2, layers // 2, layers - 3


def load_head(path: str, target_config: Any, vocab_size: int) -> Eagle3Head:
    """The head in folder or hub repository `path`, in fp32 on the CPU.

    Raises UserError where it is damaged, of an unknown layout, or made for another target.
    """
    folder = _folder(path)
    config = _read_json(folder / "config.json")
    tensors = _canonical(_read_folder(folder))
    try:
        shape = Published(path, config, tensors).head_config(target_config, vocab_size)
        _check_sizes(shape)
        head = Eagle3Head(shape)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path}: its config.json is not that of an EAGLE-3 head"
            f" ({type(error).__name__}: {first_line(error)}); copy the head again"
        ) from None
    membership = tensors.pop("t2d", None)
    if shape.draft_vocab == shape.vocab:
        tensors.setdefault("d2t", torch.zeros(shape.vocab, dtype=torch.long))
    _check_tensors(head, tensors, path)
    state = {}
    for name, tensor in tensors.items():
        state[name] = tensor.long() if name == "d2t" else tensor.float()
    head.load_state_dict(state)
    _check_vocabulary(head.d2t, membership, shape, path)
    return head.eval().requires_grad_(False)


@dataclass(frozen=True)
class Published:
    """A head as it was published: its configuration, and its tensors under canonical names."""

    path: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def is_speculators(self) -> bool:
        """Of the layout of speculators (vLLM)."""
        named = self.config.get("speculators_model_type") == "eagle3"
        return named or "transformer_layer_config" in self.config

    @property
    def is_specforge(self) -> bool:
        """Of SpecForge's layout, whose layer ids name the layer whose *output* is taken."""
        architectures = self.config.get("architectures") or []
        is_named = "LlamaForCausalLMEagle3" in architectures and not self.is_speculators
        return is_named and not self.config.get("entering_layers")

    @property
    def layer(self) -> dict[str, Any]:
        """The configuration of the head's one layer."""
        return self.config.get("transformer_layer_config", self.config)

    def head_config(self, target_config: Any, vocab_size: int) -> HeadConfig:
        """Settle the layouts' differences.

        Sizes come from the tensors where these say more than the configuration. Raises UserError
        where the head does not fit the target.
        """
        self._check_fits(target_config, vocab_size)
        layer, tensors = self.layer, self.tensors
        heads = layer.get("num_attention_heads")
        if not heads:
            raise UserError(f"{self.path}: its config.json names no num_attention_heads")
        return HeadConfig(
            hidden=tensors["fc.weight"].shape[0],
            intermediate=tensors["midlayer.mlp.gate_proj.weight"].shape[0],
            heads=heads,
            kv_heads=layer.get("num_key_value_heads", heads),
            head_dim=tensors["midlayer.self_attn.q_proj.weight"].shape[0] // heads,
            vocab=vocab_size,
            draft_vocab=tensors["lm_head.weight"].shape[0],
            target_hidden=target_config.hidden_size,
            feature_layers=self._feature_layers(target_config.num_hidden_layers),
            eps=layer.get("rms_norm_eps", 1e-6),
            rope_theta=self._rope_theta(),
            trained_length=layer.get("max_position_embeddings", 2048),
            own_embeddings="embed_tokens.weight" in tensors,
            qk_norm="midlayer.self_attn.q_norm.weight" in tensors,
            norm_before_residual=bool(self.config.get("norm_before_residual", False)),
            norm_before_fc="input_norm.weight" in tensors,
            fc_norm="fc_norm.0.weight" in tensors,
            feed_normed=self.is_speculators and bool(self.config.get("norm_output", False)),
        )

    def _check_fits(self, target_config: Any, vocab_size: int) -> None:
        path, tensors = self.path, self.tensors
        if missing := [name for name in NEEDED if name not in tensors]:
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
        if hidden != target_hidden and "embed_tokens.weight" not in tensors:
            raise UserError(
                f"{path}: a head of hidden size {hidden} for a target of {target_hidden}"
                " must carry its own embeddings"
            )
        declared = self.layer.get("vocab_size", vocab_size)
        if declared != vocab_size:
            raise UserError(
                f"{path} is a head for a vocabulary of {declared}; this target's has {vocab_size}"
            )

    def _rope_theta(self) -> float:
        layer = self.layer
        rope, scaling = layer.get("rope_parameters") or {}, layer.get("rope_scaling")
        kind = (scaling or rope).get("rope_type") or (scaling or {}).get("type")
        if kind not in (None, "default"):
            raise UserError(
                f"EAGLE-3 heads with scaled rotary embeddings ('{kind}') are not supported"
            )
        return float(layer.get("rope_theta") or rope.get("rope_theta") or DEFAULT_ROPE_THETA)

    def _feature_layers(self, layers: int) -> tuple[int, ...]:
        """Entering-stream layer ids, for a target of so many layers."""
        listed = self.config.get(LAYER_IDS)
        listed = listed or (self.config.get("eagle_config") or {}).get(LAYER_IDS)
        if not listed:
            if layers < FEWEST_LAYERS:
                raise UserError(
                    f"{self.path} names no feature layers, and the rule 2, N/2, N-3 needs"
                    f" {FEWEST_LAYERS} layers; the target has {layers}"
                )
            return default_layers(layers)
        ids = sorted(int(layer) for layer in listed)
        if self.is_specforge:
            ids = [layer + 1 for layer in ids]
        if len(ids) != 3 or ids[0] < 0 or ids[-1] >= layers:
            raise UserError(
                f"{self.path} wants features of layers {tuple(ids)};"
                f" the target has layers 0 to {layers - 1}"
            )
        return tuple(ids)


def _check_sizes(shape: HeadConfig) -> None:
    """Raise ValueError for sizes that are none."""
    for name in ("heads", "kv_heads", "head_dim", "trained_length"):
        size = getattr(shape, name)
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} is {size!r}")
    if not 0 < shape.eps < 1 or not 0 < shape.rope_theta < float("inf"):
        raise ValueError(f"eps is {shape.eps!r}, rope_theta {shape.rope_theta!r}")


def _folder(path: str) -> Path:
    """Where the head's files lie; a hub repository is fetched."""
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
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read the head's {file}: {first_line(error)}") from None
    if not isinstance(data, dict):
        raise UserError(f"the head's {file} is no JSON object")
    return data


def weights_bytes(path: str) -> int:
    """Size of the head's weight files, before they are read."""
    return sum(file.stat().st_size for file in _weight_files(_folder(path)))


def _weight_files(folder: Path) -> list[Path]:
    """In either format; none where there are none."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder's weights, in either file format."""
    files = _weight_files(folder)
    if not files:
        raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors.update(_read_file(file))
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


def _read_file(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _canonical(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without wrappers' prefixes, the layer called `midlayer`."""
    renamed = {}
    for published_name, tensor in tensors.items():
        if "rotary_emb" in published_name:
            continue
        name = published_name.removeprefix("draft_model.").removeprefix("model.")
        renamed[name.replace("layers.0.", "midlayer.")] = tensor
    return renamed


def _check_tensors(head: Eagle3Head, tensors: dict[str, torch.Tensor], path: str) -> None:
    """Raise UserError unless names and shapes are exactly those of the head."""
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise UserError(
            f"{path}: tensors missing: {', '.join(missing) or 'none'};"
            f" not understood: {', '.join(unknown) or 'none'}"
        )
    for name, shape in expected.items():
        given = tuple(tensors[name].shape)
        if given != shape:
            raise UserError(f"{path}: {name} has shape {given}, {shape} is expected")
    check_finite(path, tensors.items())


def _check_vocabulary(
    d2t: torch.Tensor, membership: torch.Tensor | None, shape: HeadConfig, path: str
) -> None:
    """Draft ids must map into the target's vocabulary, one to one, and agree with t2d if given."""
    ids = torch.arange(len(d2t)) + d2t
    if ids.min() < 0 or ids.max() >= shape.vocab or len(ids.unique()) != len(ids):
        raise UserError(f"{path}: d2t does not map the draft vocabulary into the target's")
    if membership is None or shape.draft_vocab == shape.vocab:
        return
    if int(membership.sum()) != len(d2t) or not bool(membership[ids].all()):
        raise UserError(f"{path}: d2t and t2d contradict each other")


def save_head(head: Eagle3Head, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a head in the layout of the public checkpoints, its weights in bfloat16.

    `extra` are further entries of its config.json.
    """
    c = head.config
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
        LAYER_IDS: list(c.feature_layers),
        "entering_layers": True,
        **(extra or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {}
    for name, tensor in head.state_dict().items():
        is_map = name == "d2t"
        tensors[name] = tensor if is_map else tensor.to(torch.bfloat16).contiguous()
    drafted = torch.arange(c.draft_vocab) + head.d2t
    tensors["t2d"] = torch.zeros(c.vocab, dtype=torch.bool).index_fill(0, drafted, True)
    save_file(tensors, folder / "model.safetensors")
