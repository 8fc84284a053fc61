// Gestures and keys, and what the picture means, on one sheet.
import * as store from "../store.ts";
import { CTRL, Dialog, IconButton, Keys } from "../widgets.tsx";

const GESTURES: [string, string][] = [
  ["click", "select a node: its links, what drives it, what it drives"],
  [`${CTRL} click`, "pin or unpin a node, here and in every list"],
  ["hold G", "then click nodes and let go: a supernode"],
  ["Shift", "held: keeps what the pointer shows"],
  [`${CTRL} hover`, "every number of a node"],
  ["wheel drag", "zoom and pan; double-click for the whole graph"],
  ["double-click", "a card of the subgraph: rename the supernode"],
];
const KEYS: [string, string][] = [
  ["/", "search nodes and commands"],
  ["↓ ↑", "to the strongest input, to the strongest output"],
  ["← →", "to the next stronger or weaker one, or along the layer"],
  ["Enter", "pin the selected node"],
  ["P E S", "pin, edit the label, steer"],
  ["F", "filters"],
  [`${CTRL} Z`, "undo"],
  [`${CTRL} Shift Z`, "redo"],
  ["1 2 3 4", "maximise a pane"],
  ["Esc", "close, restore, clear"],
  ["?", "this sheet"],
];

export function Help() {
  const close = (): void => {
    store.overlay.value = null;
  };
  return (
    <Dialog label="Help" onClose={close} wide>
      <header class="dialog-head">
        <h2>How to read this</h2>
        <IconButton label="Close" icon="close" onClick={close} />
      </header>
      <div class="help">
        <div>
          <p>
            Columns are the prompt's tokens, rows the model's layers. <b>●</b> features, <b>◆</b> errors (what the dictionary misses), <b>■</b> tokens below and likely outputs above. A link is the direct effect of one node on another: green and solid
            raises it, purple and dashed lowers it, wider is more. The percentage is the share of <em>all</em> absolute input of the target, what was pruned included.
          </p>
          <p>Darker features carry more of the answer's influence. Everything you add is saved as you go.</p>
          <h3>Gestures</h3>
          <Table rows={GESTURES} />
        </div>
        <div>
          <h3>Keys</h3>
          <Table rows={KEYS} />
        </div>
      </div>
    </Dialog>
  );
}

function Table({ rows }: { rows: [string, string][] }) {
  return (
    <dl class="help-keys">
      {rows.map(([keys, meaning]) => (
        <>
          <dt>
            <Keys text={keys} />
          </dt>
          <dd>{meaning}</dd>
        </>
      ))}
    </dl>
  );
}
