// Work that runs on the server, whoever started it: seen after a reload, and stopped from here.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import * as api from "./api.ts";
import { percent } from "./format.ts";


/** Unfinished work, looked at every so many milliseconds; `onEnd` is called when some of it has ended. */
export function Jobs({ onEnd, every = 1500 }: { onEnd: () => void; every?: number }) {
  const jobs = useSignal<api.Job[]>([]);
  useEffect(() => {
    let timer = 0;
    let gone = false;
    const look = async (): Promise<void> => {
      const before = jobs.value;
      const now = await api.listJobs().catch(() => before);
      if (gone) return;
      jobs.value = now;
      if (before.some((job) => !now.some((other) => other.job === job.job))) onEnd();
      timer = window.setTimeout(() => void look(), every);
    };
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);
  if (!jobs.value.length) return null;
  return (
    <ul class="jobs" aria-label="Running on the server">
      {jobs.value.map(({ job, what, share, title }) => (
        <li key={job}>
          <span class="name">{what}</span>
          <progress max={1} value={share} aria-label={`Progress of the ${what}`} />
          <span class="muted">
            {title}, {percent(share, 0)}
          </span>
          <button type="button" class="tool" onClick={() => api.cancelJob(job)}>
            Cancel
          </button>
        </li>
      ))}
    </ul>
  );
}
