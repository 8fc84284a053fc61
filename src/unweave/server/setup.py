"""Response graphs with the computation behind them, set up again for files."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..graphs.graph import Graph
from ..response.routes import Router, setting_of
from .library import Stamp
from .live import Live

MOST = 2
"""Graphs whose computation is kept."""


@dataclass(frozen=True)
class SetUp:
    """Response graphs with the computation behind them, the latest kept."""

    _graphs: OrderedDict[tuple[Path, Stamp], Graph] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, path: Path, stamp: Stamp, graph: Graph, live: Live) -> Graph:
        """A graph that knows how its edges travel; the caller holds the model.

        Raises:
            GraphError: no whole response graph of this model.
        """
        key = (path, stamp)
        with self._lock:
            if key not in self._graphs:
                model = live.model if graph.provenance.units == "features" else live.model.language_model
                self._graphs[key] = replace(graph, router=Router(setting_of(model, graph)))
                while len(self._graphs) > MOST:
                    self._graphs.popitem(last=False)
            return self._graphs[key]
