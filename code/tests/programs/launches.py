"""How many kernels a GPU would launch: Inductor's own code for a Hopper GPU, counted, without one.

The graphs are traced on the CPU. They are then lowered, fused and written as Triton code for an
H100 that is described but not there; what its wrapper would launch is counted. `packed_attention`
and `tree_attention` are two launches each. It uses private parts of PyTorch 2.13.
"""

import copy
import re
import sys
from types import SimpleNamespace

import torch
import triton
from torch._dynamo import device_interface
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext, tracing
from torch._inductor import config
from torch._inductor.compile_fx import fake_tensor_prop, view_to_reshape
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from triton.backends.compiler import GPUTarget

from model.eagle3 import graph as eagle_graph
from model.eagle3.head import Eagle3Head, HeadConfig
from model.eagle3.tree import DraftState, TreeShape
from model.engine import chain
from model.engine.attention import use_packed_rows
from model.engine.backends import cuda_graph_fused
from model.engine.backends.cuda_graph import KV_ROWS, DeviceStep, GraphKey
from model.engine.device import merged_linears
from model.engine.device.launch import DEFAULT
from model.engine.forward import Segment
from model.engine.model import Model

H100 = SimpleNamespace(
    name="H100",
    type="cuda",
    index=0,
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
    gcnArchName="",
)
LAUNCHES = (
    (r"\.run\(", 1),
    (r"extern_kernels\.mm\(", 1),
    (r"extern_kernels\.addmm\(", 2),
    (r"torch\.ops\.spectts\.\w+\.default\(", 2),
    (r"torch\.ops\.aten\.topk\.default\(", 2),
    (r"torch\.ops\.aten\.sort\.stable\(", 2),
)
"""What a line of the wrapper launches; `addmm` copies the sum's other part first, ATen's sort and
top-k of short rows are two kernels."""
OF_OPERATORS = {"aten.argmax.default": 2}
"""Of operators outside compiled parts; others are one. A long row's largest is found in two."""


class DescribedCuda(device_interface.DeviceInterface):
    """As much of a device as code is written for."""

    class Worker:
        current_device = staticmethod(lambda: 0)
        set_device = staticmethod(lambda device: None)
        get_device_properties = staticmethod(lambda device=None: H100)

    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    get_device_properties = staticmethod(lambda device=None: H100)
    get_compute_capability = staticmethod(lambda device=None: 90)
    is_triton_capable = staticmethod(lambda device=None: True)
    raise_if_triton_unavailable = staticmethod(lambda device=None: None)
    is_bf16_supported = staticmethod(lambda including_emulation=False: True)


class DescribedDriver:
    """The same for Triton."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda:0")


def describe_a_gpu() -> None:
    device_interface.get_interface_for_device("cpu")  # registers those that are there
    for name in ("cuda", "cuda:0"):
        device_interface.register_interface_for_device(name, DescribedCuda)
    torch.cuda.get_device_properties = lambda device=None: H100
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.current_device = lambda: 0
    torch.cuda.device_count = lambda: 1
    triton.runtime.driver.set_active(DescribedDriver())


class Traced:
    """A backend of `torch.compile` that keeps what it is given, merged, and runs it as it is."""

    def __init__(self) -> None:
        self.graphs = []
        self.ran = []
        """A number of a graph for each time that it ran."""

    def __call__(self, graph, inputs):
        return aot_module_simplified(
            merged_linears.merged(graph),
            inputs,
            fw_compiler=self.keep,
            inference_compiler=self.keep,
            decompositions=select_decomp_table(),
            keep_inference_input_mutations=True,
        )

    def keep(self, graph, inputs):
        number = len(self.graphs)
        self.graphs.append((copy.deepcopy(graph), inputs))

        def run(*args):
            self.ran.append(number)
            with _disable_current_modes():  # it counts by the code that is written for it
                return graph.forward(*args)

        return run


class Counted(TorchDispatchMode):
    """Operations that launch something, one after another."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__()
        self.launched = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator._schema.is_mutable or not is_view(result, args):
            self.launched.append(str(operator))
        return result


def is_view(result, args) -> bool:
    """Is it the first argument, seen otherwise?"""
    if not (isinstance(result, torch.Tensor) and isinstance(args[0], torch.Tensor)):
        return False
    return result.untyped_storage()._cdata == args[0].untyped_storage()._cdata


def launches(graph, traced_with) -> int:
    """Of the code that Inductor writes for a graph."""
    fake = next(x.fake_mode for x in traced_with if isinstance(x, torch.Tensor))
    with fake:
        inputs = [on_gpu(x) if isinstance(x, torch.Tensor) else x for x in traced_with]
    for node in graph.graph.nodes:
        if node.kwargs.get("device") == torch.device("cpu"):
            node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
    view_to_reshape(graph)
    with tracing(TracingContext(fake)), V.set_fake_mode(fake):
        fake_tensor_prop(graph, inputs)
        post_grad_passes(graph, is_inference=True)
        lowering = GraphLowering(
            graph, example_inputs=inputs, is_inference=True, shape_env=fake.shape_env
        )
        with (
            V.set_graph_handler(lowering),
            V.set_debug_handler(DebugContext()),
            config.patch(combo_kernels=True),
        ):
            lowering.run(*inputs)
            code = lowering.codegen()[0].value
    body = code[code.index("def call(") :]
    if "--code" in sys.argv:
        print(body)
    return sum(weight * len(re.findall(pattern, body)) for pattern, weight in LAUNCHES)


def on_gpu(tensor):
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda")


def of_layer(network, dynamic: bool) -> int:
    """Of a decoder layer over 8 rows, or as many as there are."""
    network = network.to(torch.bfloat16).eval()
    use_packed_rows(network)
    merged_linears.move_together(network)
    cache = torch.zeros(2, 1, 512, 2, 64, dtype=torch.bfloat16)
    for module in network.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "scaling"):
            module.register_buffer(KV_ROWS, cache, persistent=False)
    traced = Traced()
    layer = network.get_decoder().layers[0]
    layer.compile(backend=traced, dynamic=dynamic)
    zeros = [torch.zeros(size, dtype=torch.int64) for size in (2, 2, 3)]
    step = DeviceStep(*zeros, torch.ones(8, 128, dtype=torch.bool), DEFAULT.packed())
    hidden = torch.zeros(1, 8, 256, dtype=torch.bfloat16)
    angles = torch.zeros(1, 8, 64, dtype=torch.bfloat16)
    layer(hidden, position_embeddings=(angles, angles.clone()), attention_mask=None, step=step)
    ((graph, inputs),) = traced.graphs
    return launches(graph, inputs)


def of_draft() -> list[int]:
    """Of EAGLE-3's draft: catching up, then a level and its selection."""
    sizes = {"hidden": 256, "intermediate": 512, "heads": 4, "kv_heads": 2, "head_dim": 64}
    head = Eagle3Head(HeadConfig(**sizes, vocab=1000, draft_vocab=500, target_hidden=256))
    head = head.to(torch.bfloat16).eval()
    state = DraftState(head, torch.zeros(1000, 256, dtype=torch.bfloat16), 256)
    parts = []

    def compiled(part):
        traced = Traced()
        parts.append(traced)
        return torch.compile(part, backend=traced, dynamic=False)

    eagle_graph.compiled = compiled
    draft = eagle_graph.DraftGraph(state, TreeShape(k=10, depth=1, nodes=20), fused=True)
    draft.step(torch.zeros(4, 768, dtype=torch.bfloat16), [0, 1, 2, 3])
    return [launches(*traced.graphs[0]) for traced in parts]


def of_run(body, traced: Traced) -> int:
    """Of compiled parts and of what runs between them."""
    body()  # compiles
    traced.ran.clear()
    with Counted() as counted:
        body()
    if "--code" in sys.argv:
        print(counted.launched)
    inside = sum(launches(*traced.graphs[number]) for number in traced.ran)
    return inside + sum(OF_OPERATORS.get(name, 1) for name in counted.launched)


def of_model(layers: int) -> tuple[int, int]:
    """Of a model's step, and of one more token of a draft model's chain."""
    network = Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "num_hidden_layers": layers}))
    traced = Traced()
    cuda_graph_fused.compile_merged = traced
    chain.compiled = lambda part: torch.compile(part, backend=traced, dynamic=False)
    model = Model(network.to(torch.bfloat16), engine="cuda_graph_fused")
    model.reserve(100)
    of_step = of_run(lambda: model.backend.body(GraphKey(rows=8)), traced)
    of_chains = []
    for length in (2, 3):
        graph = chain.ChainGraph(model, length)
        graph.step(Segment.causal(0, 0, [1]), 0.0, [], length)
        key = chain.ChainKey(rows=1, draws=False)
        of_chains.append(of_run(lambda graph=graph, key=key: graph.body(key), traced))
    return of_step, of_chains[1] - of_chains[0]


SIZES = {
    "vocab_size": 100,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
describe_a_gpu()
with torch.inference_mode():
    print("qwen3 layer, any rows", of_layer(Qwen3ForCausalLM(Qwen3Config(**SIZES)), True))
    print("llama layer", of_layer(LlamaForCausalLM(LlamaConfig(**SIZES)), False))
    caught_up, level, selection = of_draft()
print("eagle3 catching up", caught_up)
print("eagle3 level", level + selection)
with torch.inference_mode():
    torch._dynamo.reset()
    step, token = of_model(layers=2)
print("step, beside layers", step - 2 * 11)
print("sps token, beside layers", token - 2 * 11)
