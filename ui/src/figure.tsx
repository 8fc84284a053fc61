// Figures for papers: SVG with real text and a caption, and PNG of the same.
import { PRINT } from "./colour.ts";
import { drawLinkGraph, IDENTITY, roomForOutputs, type Scene } from "./draw.ts";
import type { Graph } from "./graph.ts";
import { linkLayout } from "./layout.ts";
import { escaped, FONT, svgPen } from "./pen.ts";

const SIZE = { width: 900, height: 620, left: 38, right: 14, bottom: 70 };
const CAPTION = 22;

/** The link graph as it is on screen, without pan and zoom, in print colours. */
export function linkGraphSvg(scene: Scene, caption: string): string {
  const parts: string[] = [];
  const box = { ...SIZE, top: roomForOutputs(scene.graph, scene.logitNames) };
  const layout = linkLayout(scene.graph, box, (row) => scene.mask[row] === 1);
  const pen = svgPen(parts);
  drawLinkGraph(pen, { ...scene, box, layout, theme: PRINT, transform: IDENTITY });
  pen.text(box.left, box.height + 8, caption, { fill: PRINT.muted, size: 10 });
  const height = box.height + CAPTION;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${box.width}" height="${height}" viewBox="0 0 ${box.width} ${height}" font-family="${escaped(FONT)}"><title>${escaped(scene.graph.view.title)}</title><rect width="100%" height="100%" fill="${PRINT.background}"/>${parts.join("")}</svg>`;
}

export function caption(graph: Graph, shown: string): string {
  const version = graph.view.provenance.version;
  return `“${graph.view.prompt ?? graph.view.title}” · ${graph.view.model} · ${shown} · dashed: negative${version ? ` · unweave ${version}` : ""}`;
}

/** PNG of an SVG text, at a resolution for print. */
export async function png(svg: string, scale = 3): Promise<Blob> {
  const image = new Image();
  const loaded = new Promise((resolve, reject) => {
    image.onload = resolve;
    image.onerror = () => reject(new Error("The browser could not draw this figure; take the SVG."));
  });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await loaded;
  const canvas = document.createElement("canvas");
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The figure is too large for a PNG; take the SVG."))), "image/png"));
}

export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
