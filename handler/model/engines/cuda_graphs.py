"""Layers replayed as CUDA graphs: one launch for all of their kernels. Not measured: no GPU has run it yet.

A graph is bound to the shape of its input, so callers pad to few shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOST = 16
"""Graphs of one module; each keeps its input and results in memory. Further shapes run without."""


class Graphs:
    """Runs ``layers`` as the graph of its input's shape, captured when that shape comes first.

    The results are the graph's own buffers: they are valid until the next call.
    """

    def __init__(self, layers: Callable[[torch.Tensor], Any]) -> None:
        self._layers = layers
        self._graphs: dict[torch.Size, tuple[torch.Tensor, Callable[[], Any]]] = {}

    def __call__(self, values: torch.Tensor) -> Any:
        if values.shape not in self._graphs:
            if len(self._graphs) >= MOST:
                return self._layers(values)
            read = values.clone()
            self._graphs[values.shape] = read, capture(self._layers, read)
        read, replay = self._graphs[values.shape]
        read.copy_(values)
        return replay()


def capture(layers: Callable[[torch.Tensor], Any], values: torch.Tensor) -> Callable[[], Any]:
    """The graph of ``layers(values)``, as a function that computes it anew from what ``values`` then holds."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        layers(values)  # what cuDNN and cuBLAS allocate on first use must not become part of the graph
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = layers(values)

    def replay() -> Any:
        graph.replay()
        return results

    return replay
