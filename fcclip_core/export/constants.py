"""Graph capture with constant folding: everything that does not depend on the image is computed once.

Examples are position embeddings, pixel centers, the mask embeddings of the initial queries and slices of weights.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn


@torch.inference_mode(False)
@torch.no_grad()
def capture(module: nn.Module, image: Tensor) -> fx.GraphModule:
    """Captures `module` as a graph for inputs of one shape, with constants folded.

    Args:
        module: Takes a tensor and returns a tensor or a tuple of tensors. Its weights are shared.
        image: An input with the shape, type and memory layout of later inputs.

    Raises:
        RuntimeError: torch cannot capture it.
    """
    captured = torch.export.export(module, (image,), strict=False).module()
    return fold_constants(fx.GraphModule(captured, captured.graph))


def fold_constants(module: fx.GraphModule) -> fx.GraphModule:
    """Replaces, in place, every tensor that depends only on weights and literals by a buffer.

    Module calls are removed: in a graph from `torch.export` they only check input shapes.
    """
    graph, known = module.graph, dict[fx.Node, Any]()
    for node in list(graph.nodes):
        if node.op == "call_module":
            graph.erase_node(node)
        elif node.op == "get_attr":
            known[node] = attrgetter(node.target)(module)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            arguments, options = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments, **options)
    for index, (node, value) in enumerate(known.items()):
        is_read = any(user not in known for user in node.users)
        if node.op == "call_function" and is_read and isinstance(value, Tensor):
            name = f"constant_{index}"
            module.register_buffer(name, value.detach().contiguous())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    module.recompile()
    return module
