// A study's report as text and tables.
import type { ComponentChildren } from "preact";
import { blocksOf, plainOf } from "../report.ts";

/** `**bold**` as such. */
function spans(text: string): ComponentChildren {
  return text.split("**").map((part, place) => (place % 2 ? <b key={place}>{plainOf(part)}</b> : plainOf(part)));
}

export function Report({ text }: { text: string }) {
  return (
    <div class="report">
      {blocksOf(text).map((block, place) =>
        block.kind === "table" ? (
          <div class="report-table" key={place} tabIndex={0} role="group" aria-label={`Table: ${block.rows[0].filter(Boolean).join(", ")}`}>
            <table>
              <thead>
                <tr>{block.rows[0].map((cell, column) => <th scope="col" key={column}>{cell}</th>)}</tr>
              </thead>
              <tbody>
                {block.rows.slice(1).map((row, number) => <tr key={number}>{row.map((cell, column) => <td key={column}>{cell}</td>)}</tr>)}
              </tbody>
            </table>
          </div>
        ) : block.kind === "heading" ? (
          <h4 key={place}>{spans(block.text)}</h4>
        ) : (
          <p key={place} class={block.kind}>{spans(block.text)}</p>
        ),
      )}
    </div>
  );
}
