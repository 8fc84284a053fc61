// Search and commands in one field.
import { useMemo, useState } from "preact/hooks";
import { type Command, commands } from "../commands.ts";
import { layerName, nodeName, quoted } from "../format.ts";
import { mainLinkGraph } from "../panes/LinkGraph.tsx";
import { searchNodes } from "../search.ts";
import * as store from "../store.ts";
import { CTRL, Dialog, Glyph, Keys } from "../widgets.tsx";

const MOST = 50;

type Item = { row: number } | { command: Command };

export function Palette() {
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);
  const graph = store.graph.value;
  const annotations = store.annotations.value;
  const items = useMemo<Item[]>(() => {
    const words = query.replace(/^>/, "").trim().toLowerCase();
    const listed = commands(graph).filter(({ name }) => words.split(/\s+/).every((word) => name.toLowerCase().includes(word)));
    const nodes = graph && !query.startsWith(">") ? searchNodes(graph, query, (row) => nodeName(graph, annotations, row), MOST) : [];
    return [...nodes.map((row) => ({ row })), ...listed.map((command) => ({ command }))];
  }, [query, graph, annotations]);
  const close = (): void => {
    store.overlay.value = null;
  };
  const choose = (item: Item | undefined, event: { ctrlKey: boolean; metaKey: boolean }): void => {
    if (!item) return;
    close();
    if ("command" in item) return item.command.run();
    const id = graph!.view.nodes.id[item.row];
    if (event.ctrlKey || event.metaKey) store.togglePin(id);
    else {
      store.select(id);
      mainLinkGraph.current?.reveal(item.row);
    }
  };
  const current = Math.min(at, items.length - 1);
  return (
    <Dialog label="Search" onClose={close}>
      <input
        class="palette-input"
        autoFocus
        role="combobox"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant={items.length ? `palette-${current}` : undefined}
        aria-label="Search nodes and commands"
        placeholder="Label, token, L20/15589, or a command"
        value={query}
        onInput={(event) => {
          setQuery(event.currentTarget.value);
          setAt(0);
        }}
        onKeyDown={(event) => {
          if (event.key === "ArrowDown" || event.key === "ArrowUp") {
            event.preventDefault();
            const next = Math.max(0, Math.min(items.length - 1, current + (event.key === "ArrowDown" ? 1 : -1)));
            setAt(next);
            document.getElementById(`palette-${next}`)?.scrollIntoView({ block: "nearest" });
          } else if (event.key === "Enter") {
            event.preventDefault();
            choose(items[current], event);
          }
        }}
      />
      <ul id="palette-list" class="palette-list" role="listbox" aria-label="Results">
        {items.map((item, place) => (
          <li id={`palette-${place}`} role="option" aria-selected={place === current} class={place === current ? "current" : ""} onMouseMove={() => place !== current && setAt(place)} onClick={(event) => choose(item, event)}>
            {"row" in item ? (
              <>
                <Glyph kind={graph!.view.nodes.kind[item.row]} />
                <span class="name">{nodeName(graph!, annotations, item.row)}</span>
                <span class="where">
                  {layerName(graph!, item.row)} {quoted(graph!.view.tokens[graph!.view.nodes.position[item.row]])}
                </span>
              </>
            ) : (
              <>
                <span class="glyph">›</span>
                <span class="name">{item.command.name}</span>
                {item.command.keys && <Keys text={item.command.keys} />}
              </>
            )}
          </li>
        ))}
      </ul>
      <p class="hint palette-hint">{items.length ? `Enter selects, ${CTRL}+Enter pins` : "Nothing matches."}</p>
    </Dialog>
  );
}
