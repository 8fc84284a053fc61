// The page's state, by concern: `import * as store` reads as one place, each file of `state/` holds one thing.
export * from "./state/attention.ts";
export * from "./state/filtering.ts";
export * from "./state/graph.ts";
export * from "./state/lookups.ts";
export * from "./state/messages.ts";
export * from "./state/opening.ts";
export * from "./state/selection.ts";
export * from "./state/storage.ts";
export * from "./state/theme.ts";
export * from "./state/work.ts";
