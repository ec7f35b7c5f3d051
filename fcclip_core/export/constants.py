"""Constant folding in a captured graph: what does not depend on the image is computed once, before export.

Position embeddings, pixel centres, the first queries' mask embeddings and slices of stacked weights are such things.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor, fx


def fold_constants(module: fx.GraphModule) -> fx.GraphModule:
    """Replaces, in place, every tensor that follows from weights and literals alone by a buffer that holds it.

    Calls of modules are removed: in a graph from `torch.export` they only check the shapes of inputs.
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
