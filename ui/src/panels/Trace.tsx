// Tracing a prompt from the page, with progress and cancel.
import { useSignal } from "@preact/signals";
import * as api from "../api.ts";
import * as store from "../store.ts";
import { Dialog, IconButton } from "../widgets.tsx";

export function Trace({ prompt = "", onOpen }: { prompt?: string; onOpen: (slug: string) => void }) {
  const text = useSignal(prompt);
  const features = useSignal("");
  const targets = useSignal("");
  const progress = useSignal<api.Progress | null>(null);
  const failure = useSignal<string | null>(null);
  const job = useSignal<(() => void) | null>(null);
  /** A trace that runs goes on: it is listed on the start page, and can be stopped there. */
  const close = (): void => {
    if (progress.value) store.say("The trace goes on; it is listed under All graphs.");
    store.overlay.value = null;
  };
  const start = async (): Promise<void> => {
    failure.value = null;
    progress.value = { share: 0, title: "Waiting" };
    try {
      const request: api.TraceRequest = { prompt: text.value };
      if (Number(features.value) > 0) request.max_features = Math.round(Number(features.value));
      const named = targets.value.split("|").filter((target) => target.trim());
      if (named.length) request.targets = named;
      const running = await api.trace(request, (now) => (progress.value = now));
      job.value = running.cancel;
      const slug = await running.done;
      if (slug !== null) {
        job.value = null;
        if (store.overlay.value === "trace") {
          store.overlay.value = null;
          onOpen(slug);
        } else store.say("The trace is done; it is listed under All graphs.");
        return;
      }
      store.say("Cancelled; nothing was saved.");
    } catch (error) {
      failure.value = (error as Error).message;
    }
    job.value = null;
    progress.value = null;
  };
  return (
    <Dialog label="Trace a prompt" onClose={close}>
      <header class="dialog-head">
        <h2>Trace a prompt</h2>
        <IconButton label="Close" icon="close" onClick={close} />
      </header>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void start();
        }}
      >
        <label class="stack">
          Prompt
          <textarea rows={3} required autoFocus disabled={progress.value !== null} value={text.value} placeholder="The capital of France is" onInput={(event) => (text.value = event.currentTarget.value)} />
        </label>
        <div class="pair">
          <label class="stack">
            Most features <span class="hint">empty: all</span>
            <input type="number" min={1} disabled={progress.value !== null} value={features.value} placeholder="all" onInput={(event) => (features.value = event.currentTarget.value)} />
          </label>
          <label class="stack">
            Targets <span class="hint">empty: the likeliest; several with |</span>
            <input disabled={progress.value !== null} value={targets.value} placeholder=" Paris| Lyon" onInput={(event) => (targets.value = event.currentTarget.value)} />
          </label>
        </div>
        {failure.value && <p class="error" role="alert">{failure.value}</p>}
        {progress.value ? (
          <div class="progress" aria-live="polite">
            <progress max={1} value={progress.value.share} aria-label="Progress" />
            <span>{progress.value.title}</span>
            <button type="button" class="tool" onClick={() => job.value?.()}>
              Cancel
            </button>
          </div>
        ) : (
          <button type="submit" class="tool primary" disabled={!text.value.trim()}>
            Trace
          </button>
        )}
      </form>
    </Dialog>
  );
}
