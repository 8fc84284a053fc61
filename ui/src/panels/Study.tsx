// The study that a graph is of: its verdict, its steps, its graphs, and its report.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import * as api from "../api.ts";
import type { Graph } from "../graph.ts";
import type { StudyFacts } from "../types.ts";
import { Report } from "./Report.tsx";

export function Study({ graph }: { graph: Graph }) {
  const study = useSignal<StudyFacts | null>(null);
  const failure = useSignal<string | null>(null);
  useEffect(() => {
    study.value = null;
    api.loadStudy(graph.view.slug).then(
      (found) => (study.value = found),
      (error: Error) => (failure.value = error.message),
    );
  }, [graph]);
  if (failure.value) return <p class="panel error">{failure.value}</p>;
  if (!study.value) return <p class="panel muted" aria-busy="true">Reading the study…</p>;
  const { title, question, verdict, holds, steps, graphs, report } = study.value;
  return (
    <div class="panel study">
      <h3>{title}</h3>
      <p class={`verdict verdict-${holds ? "good" : "bad"}`}>{verdict}</p>
      <p>{question}</p>
      {graphs.length > 1 && (
        <p class="chips" aria-label="Graphs of this study">
          {graphs.map(({ slug, file }) => (
            <a key={slug} class={slug === graph.view.slug ? "chip current" : "chip"} href={`#${encodeURIComponent(slug)}`}>
              {file.replace(/\.graph\.safetensors$/, "")}
            </a>
          ))}
        </p>
      )}
      <h3>Steps</h3>
      <ul class="study-steps">
        {steps.map((step) => (
          <li key={step.name}>
            <span class={step.holds === false ? "step-mark failed" : "step-mark"}>{step.holds === true ? "✓ " : step.holds === false ? "✗ " : "· "}</span>
            <b>{step.name}</b>: {step.summary}
          </li>
        ))}
      </ul>
      {report && (
        <details>
          <summary>The whole report</summary>
          <Report text={report} />
        </details>
      )}
    </div>
  );
}
