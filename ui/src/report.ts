// The little Markdown that reports of studies are written in; pictures are files beside a report and are left out.

export type Block = { kind: "heading" | "text" | "item"; text: string } | { kind: "table"; rows: string[][] };

/** The blocks of a report: headings, paragraphs, items of lists, tables. */
export function blocksOf(text: string): Block[] {
  const blocks: Block[] = [];
  let open = false;
  for (const line of text.split("\n").map((one) => one.trim())) {
    const last = blocks.at(-1);
    if (line.startsWith("|")) {
      const cells = line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => plainOf(cell.trim()));
      if (cells.every((cell) => /^:?-+:?$/.test(cell))) continue;
      if (open && last?.kind === "table") last.rows.push(cells);
      else blocks.push({ kind: "table", rows: [cells] });
      open = true;
      continue;
    }
    if (line.startsWith("![")) continue;
    const heading = /^#+\s+(.*)/.exec(line);
    const item = /^[-*]\s+(.*)/.exec(line);
    if (!line) open = false;
    else if (heading) blocks.push({ kind: "heading", text: heading[1] });
    else if (item) blocks.push({ kind: "item", text: item[1] });
    else if (open && last?.kind === "text") last.text += ` ${line}`;
    else blocks.push({ kind: "text", text: line });
    open = line !== "" && !heading;
  }
  return blocks;
}

/** Without backslashes before signs. */
export const plainOf = (text: string): string => text.replace(/\\([\\`*_{}[\]()#+.!|<>~-])/g, "$1");
