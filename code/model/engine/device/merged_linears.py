"""Linear layers of one input as one matrix product: queries, keys and values; gate and up.

Five products a layer become two: with few rows a product is bound by its launch and by reading its
weight once, whatever its width. The weights are moved side by side, not copied: each layer's own
weight becomes a part of one tensor, so the unpatched model computes what it computed, from the same
bytes. The compiled graph multiplies by the whole tensor (`merged`, a pass over the traced graph
before Inductor sees it). vLLM, SGLang and gpt-fast merge the same layers in models of their own.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same input, by the names transformers' models share."""
LINEAR = torch._C._nn.linear


def move_together(network: nn.Module) -> int:
    """Lay the weights of every group side by side in one tensor; returns how many groups.

    Groups with a bias, or of layers other than plain `nn.Linear`, are left as they are.
    """
    groups = 0
    for module in network.modules():
        for names in GROUPS:
            linears = [getattr(module, name, None) for name in names]
            if all(_is_plain(linear) for linear in linears):
                _move([linear.weight for linear in linears if linear is not None])
                groups += 1
    return groups


def _is_plain(module: object) -> bool:
    return type(module) is nn.Linear and module.bias is None


def _move(weights: Sequence[nn.Parameter]) -> None:
    if _are_adjacent(weights):
        return
    whole = torch.cat([weight.data for weight in weights])
    parts = whole.split([len(weight) for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part


def _are_adjacent(weights: Sequence[torch.Tensor]) -> bool:
    """Are they one after another in one storage?"""
    first, end = weights[0], weights[0].storage_offset()
    for weight in weights:
        is_row_major = weight.dim() == 2 and weight.is_contiguous()
        is_same = weight.untyped_storage()._cdata == first.untyped_storage()._cdata
        if not (is_row_major and is_same and weight.storage_offset() == end):
            return False
        end += weight.numel()
    return True


def merged(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Every run of linear layers whose input is one and whose weights lie side by side as one."""
    by_input: dict[torch.fx.Node, list[torch.fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is LINEAR and _bias(node) is None:
            by_input.setdefault(node.args[0], []).append(node)
    for linears in by_input.values():
        for run in _runs(linears):
            _replace(graph.graph, run)
    graph.graph.lint()
    graph.recompile()
    return graph


def _bias(node: torch.fx.Node) -> Any:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")


def _weight(node: torch.fx.Node) -> torch.Tensor:
    return node.args[1].meta["example_value"]  # type: ignore[union-attr]


def _runs(linears: Sequence[torch.fx.Node]) -> list[list[torch.fx.Node]]:
    """Two and more whose weights follow each other, whatever order they are called in."""
    in_order = sorted(linears, key=lambda node: _weight(node).storage_offset())
    runs: list[list[torch.fx.Node]] = []
    for node in in_order:
        if runs and _are_adjacent([_weight(other) for other in [*runs[-1], node]]):
            runs[-1].append(node)
        else:
            runs.append([node])
    return [run for run in runs if len(run) > 1]


def _replace(graph: torch.fx.Graph, run: Sequence[torch.fx.Node]) -> None:
    """One product by the whole tensor, and each layer's columns of it."""
    first = next(node for node in graph.nodes if node in run)
    weight = _weight(run[0])
    rows = [len(_weight(node)) for node in run]
    width = weight.shape[1]
    with graph.inserting_before(first):
        whole = graph.call_function(
            torch.as_strided,
            (run[0].args[1], (sum(rows), width), (width, 1), weight.storage_offset()),
        )
        product = graph.call_function(LINEAR, (run[0].args[0], whole))
        parts = graph.call_function(torch.split, (product, rows, -1))
        columns = [graph.call_function(operator.getitem, (parts, i)) for i in range(len(run))]
    for node, column in zip(run, columns, strict=True):
        node.replace_all_uses_with(column)
        graph.erase_node(node)


def compile_merged(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
    """A backend of `torch.compile`: merges, then hands over to Inductor.

    On a GPU what is done to queries and to keys becomes one launch, where that compiles: Inductor's
    combined kernels are young.
    """
    from torch._inductor import compile_fx

    graph = merged(graph)
    if is_on_gpu(inputs):
        with contextlib.suppress(Exception):  # Inductor and Triton raise types of their own
            combined = copy.deepcopy(graph)
            return compile_fx.compile_fx(combined, inputs, config_patches={"combo_kernels": True})
    return compile_fx.compile_fx(graph, inputs, config_patches={"combo_kernels": False})


def compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """Fused by Inductor, its linears merged."""
    return torch.compile(part, backend=compile_merged)


def is_on_gpu(inputs: Sequence[Any]) -> bool:
    """Does any of them lie there?"""
    return any(isinstance(value, torch.Tensor) and value.is_cuda for value in inputs)
