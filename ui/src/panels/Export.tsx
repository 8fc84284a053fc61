// What can be taken away: figures, one file that opens anywhere, JSON for other viewers.
import { useSignal } from "@preact/signals";
import { fetchBytes, htmlAddress, inlined, neuronpediaAddress } from "../api.ts";
import { caption, download, linkGraphSvg, png } from "../figure.tsx";
import type { Graph } from "../graph.ts";
import { mainLinkGraph, shownLine } from "../panes/LinkGraph.tsx";
import { subgraphSvg } from "../panes/Subgraph.tsx";
import { copyAddress } from "../panes/why/share.ts";
import * as store from "../store.ts";

export type Figure = "link-graph" | "subgraph";

function figure(graph: Graph, which: Figure): string | null {
  if (which === "subgraph") return subgraphSvg(graph);
  const scene = mainLinkGraph.current?.scene();
  return scene ? linkGraphSvg(scene, caption(graph, shownLine())) : null;
}

export async function exportFigure(graph: Graph, which: Figure, format: "svg" | "png"): Promise<void> {
  const svg = figure(graph, which);
  if (!svg) return store.say("Pin nodes first: the subgraph is empty.", true);
  try {
    const blob = format === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await png(svg);
    download(blob, `${graph.view.slug}-${which}.${format}`);
  } catch (error) {
    store.say((error as Error).message, true);
  }
}

export function Export({ graph }: { graph: Graph }) {
  const row = (which: Figure, title: string) => (
    <div class="export-row">
      <span>{title}</span>
      <button type="button" class="tool" onClick={() => void exportFigure(graph, which, "svg")}>
        SVG
      </button>
      <button type="button" class="tool" onClick={() => void exportFigure(graph, which, "png")}>
        PNG
      </button>
    </div>
  );
  return (
    <div class="panel">
      <h3>Figures</h3>
      {row("link-graph", "Link graph")}
      {row("subgraph", "Subgraph")}
      <p class="hint">As they are on screen, in print colours on white; SVG keeps its text. Negative links are dashed.</p>
      <h3>The whole graph</h3>
      {!inlined && (
        <>
          <WholeGraph title="One HTML file" address={htmlAddress(graph.view.slug)} name={`${graph.view.slug}.html`} />
          <p class="hint">Opens from disk without a network, with your pins, supernodes, labels and notes, and the details of the 300 features that matter most. Steering stays here: it needs the model.</p>
          <WholeGraph title="JSON for Neuronpedia" address={neuronpediaAddress(graph.view.slug)} name={`${graph.view.slug}.json`} />
        </>
      )}
      {!inlined && (
        <p>
          <button type="button" class="tool" onClick={() => void copyAddress()}>
            Copy an address of this view
          </button>{" "}
          <span class="hint">with pins, supernodes and what is chosen</span>
        </p>
      )}
      <p>
        <button type="button" class="tool" onClick={() => download(new Blob([JSON.stringify(store.annotations.value, null, 1)], { type: "application/json" }), `${graph.view.slug}.annotations.json`)}>
          Annotations alone
        </button>
      </p>
    </div>
  );
}

/** A file that the server makes: what is not saved yet is saved first, and how far it is stands in the button. */
function WholeGraph({ title, address, name }: { title: string; address: string; name: string }) {
  const progress = useSignal<string | null>(null);
  const fetchFile = async (): Promise<void> => {
    progress.value = "the server writes it…";
    try {
      await store.save();
      const file = await fetchBytes(address, (bytes) => (progress.value = `${(bytes / 1e6).toFixed(1)} MB…`));
      download(file, name);
    } catch (error) {
      store.say((error as Error).message, true);
    }
    progress.value = null;
  };
  return (
    <p>
      <button type="button" class="tool" disabled={progress.value !== null} aria-busy={progress.value !== null} onClick={() => void fetchFile()}>
        {title}
      </button>{" "}
      <span class="muted" role="status">
        {progress.value}
      </span>
    </p>
  );
}
