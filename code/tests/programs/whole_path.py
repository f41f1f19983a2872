"""Whole generations through the kernels. Run under TRITON_INTERPRET=1, which is read on import."""

import scalars  # noqa: F401  mends old interpreters

from model import methods
from model.contract import Request
from model.engine.decode import generate, generate_together
from model.engine.model import Model
from tests.conftest import PROMPT, qwen3

plain = Model(qwen3(layers=1))
graphed = Model(qwen3(layers=1), engine="cuda_graph")
for method, temperature in (("recycling", 0.0), ("pld", 0.7)):
    request = Request(PROMPT, 6, temperature)
    texts = []
    for model in (plain, graphed):
        drafter = methods.load(method, model)
        texts.append(generate(model, drafter, request).output_ids)
    assert texts[0] == texts[1], (method, texts)
requests = [Request(PROMPT, 3 + sample, 0.7, sample=sample) for sample in range(2)]
alone = [generate(plain, methods.load("vanilla", plain), request) for request in requests]
together = generate_together(graphed, methods.load("recycling", graphed), requests)
assert [made.output_ids for made in together] == [made.output_ids for made in alone]
assert graphed.engine == "cuda_graph"
print("texts agree")
