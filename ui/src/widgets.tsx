// Small parts that panes and panels share.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { linkColour, textOn } from "./colour.ts";
import { GLYPHS } from "./format.ts";
import * as store from "./store.ts";
import type { Kind } from "./types.ts";

const PATHS: Record<string, string> = {
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M3 6V3h3M13 6V3h-3M3 10v3h3M13 10v3h-3",
  max: "M9.5 3H13v3.5M6.5 13H3V9.5M13 3 9 7M3 13l4-4",
  restore: "M13 7H9V3M3 9h4v4M9 7l4-4M7 9l-4 4",
  close: "M4 4l8 8M12 4l-8 8",
  undo: "M6 4 3 7l3 3M3 7h6a4 4 0 0 1 0 8H7",
  redo: "M10 4l3 3-3 3M13 7H7a4 4 0 0 0 0 8h2",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM11 11l3 3",
  filter: "M2 4h12M4.5 8h7M7 12h2",
  pin: "M6 2h4l-.5 5 2 2.5h-7l2-2.5zM8 9.5V14",
  steer: "M3 4h6M12 4h1M3 8h1M7 8h6M3 12h5M11 12h2M9 2.5v3M4 6.5v3M8 10.5v3",
  shield: "M8 2l5 2v4c0 3-2 5-5 6-3-1-5-3-5-6V4zM5.8 8l1.6 1.6L10.4 6.5",
  notes: "M4 2h8v12H4zM6 5h4M6 8h4M6 11h2",
  compare: "M3 3h4v10H3zM9 3h4v10H9z",
  export: "M8 2v8M5 7l3 3 3-3M3 13h10",
  light: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  dark: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z",
  system: "M2 3h12v8H2zM6 14h4M8 11v3",
  help: "M6 6a2 2 0 1 1 2.8 1.8c-.6.3-.8.7-.8 1.4M8 12v.4",
  group: "M2 4h7v7H2zM7 6h7v7H7z",
  edit: "M3 13l1-3 7-7 2 2-7 7z",
  back: "M10 3 5 8l5 5",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round">
      <path d={PATHS[name]} />
    </svg>
  );
}

interface IconButtonProps {
  label: string;
  icon: string;
  onClick: () => void;
  keys?: string;
  pressed?: boolean;
  disabled?: boolean;
  children?: ComponentChildren;
}

export function IconButton({ label, icon, onClick, keys, pressed, disabled, children }: IconButtonProps) {
  return (
    <button type="button" class={children ? "tool" : "tool bare"} title={keys ? `${label} (${keys})` : label} aria-label={children ? undefined : label} aria-pressed={pressed} disabled={disabled} onClick={onClick}>
      <Icon name={icon} />
      {children}
    </button>
  );
}

export type PaneName = "link" | "connections" | "subgraph" | "feature";
export const maximised = signal<PaneName | null>(null);

export function Pane({ name, title, extra, children }: { name: PaneName; title: string; extra?: ComponentChildren; children: ComponentChildren }) {
  const full = maximised.value === name;
  const toggle = (): void => {
    maximised.value = full ? null : name;
  };
  return (
    <section class={`pane pane-${name}`} aria-label={title} hidden={maximised.value !== null && !full}>
      <header onDblClick={(event) => event.target === event.currentTarget && toggle()}>
        <h2>{title}</h2>
        {extra}
        <IconButton label={full ? `Restore ${title}` : `Maximise ${title}`} icon={full ? "restore" : "max"} onClick={toggle} />
      </header>
      {children}
    </section>
  );
}

/** The shape of a node's kind, as in the link graph. */
export function Glyph({ kind }: { kind: Kind }) {
  return (
    <span class={`glyph glyph-${kind}`} aria-hidden="true">
      {GLYPHS[kind]}
    </span>
  );
}

/** A small bar from the left whose colour tells the sign, beside text that does too. */
export function ShareBar({ share }: { share: number }) {
  const colour = linkColour(store.theme.value, share);
  return <span class="share-bar" style={{ width: `${Math.sqrt(Math.min(1, Math.abs(share))) * 100}%`, background: colour, color: textOn(colour) }} />;
}

/** Text that becomes a field when clicked; Enter or leaving saves, Escape does not. */
export function Editable(props: { text: string; label: string; editing: boolean; onEdit: (editing: boolean) => void; onSave: (text: string) => void }) {
  const field = useRef<HTMLInputElement>(null);
  const given = useRef(false);
  useLayoutEffect(() => {
    if (props.editing) {
      given.current = false;
      field.current?.focus();
      field.current?.select();
    }
  }, [props.editing]);
  if (!props.editing) return null;
  const finish = (save: boolean): void => {
    if (given.current) return;
    given.current = true;
    if (save) props.onSave(field.current!.value);
    props.onEdit(false);
  };
  return (
    <input
      ref={field}
      class="editable"
      aria-label={props.label}
      defaultValue={props.text}
      maxLength={200}
      onBlur={() => finish(true)}
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === "Enter") finish(true);
        if (event.key === "Escape") finish(false);
      }}
    />
  );
}

/** A dialog over the page: takes the focus, keeps it, gives it back; Escape and a click beside it close it. */
export function Dialog({ label, onClose, children, wide }: { label: string; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal(); // before the next key is typed
    return () => before?.focus?.();
  }, []);
  return (
    <dialog
      ref={dialog}
      class={wide ? "wide" : ""}
      aria-label={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => event.target === dialog.current && onClose()}
    >
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}

export function Keys({ text }: { text: string }) {
  return (
    <span class="keys">
      {text.split(" ").map((key) => (
        <kbd>{key}</kbd>
      ))}
    </span>
  );
}

export const MAC = /Mac|iPhone|iPad/.test(navigator.platform);
export const CTRL = MAC ? "⌘" : "Ctrl";
