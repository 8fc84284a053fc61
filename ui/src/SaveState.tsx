// Whether the reader's work is saved; if not, why, and a way to try again.
import * as store from "./store.ts";

const WORDS = { saved: "saved", waiting: "saving…", saving: "saving…", retrying: "not saved yet", failed: "not saved" };

export function SaveState() {
  const state = store.saving.value;
  const problem = store.saver.problem.value;
  return (
    <span class={`saved saved-${state}`} role="status" title={problem ?? undefined}>
      {WORDS[state]}
      {(state === "retrying" || state === "failed") && (
        <>
          <span class="saved-why">: {problem} Your work is kept in this browser.</span>
          <button type="button" class="tool" onClick={() => store.saver.retry()}>
            Save now
          </button>
        </>
      )}
    </span>
  );
}
