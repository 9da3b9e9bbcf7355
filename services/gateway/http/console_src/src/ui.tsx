/** The pieces that every view is made of. */
import { type ComponentChildren, type VNode, cloneElement } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { ApiError } from "./http";
import { count, short } from "./format";
import { openKeys } from "./keys";

type Children = { children?: ComponentChildren };

/** A control with its label, and a hint that describes it. */
export function Field(props: { label: string; hint?: string; children: VNode<object> }) {
  const id = useId();
  const hintId = props.hint && `${id}-hint`;
  return (
    <div class="field">
      <label class="label" for={id}>{props.label}</label>
      {cloneElement(props.children, { id, "aria-describedby": hintId })}
      {props.hint && <span class="hint" id={hintId}>{props.hint}</span>}
    </div>
  );
}

interface ButtonProps extends Children {
  onPress?: () => void;
  kind?: "main" | "plain" | "danger" | "quiet";
  busy?: boolean;
  disabled?: boolean;
  label?: string;
  submit?: boolean;
}

export function Button(props: ButtonProps) {
  return (
    <button
      type={props.submit ? "submit" : "button"}
      class={`button ${props.kind ?? "plain"}`}
      onClick={props.onPress}
      disabled={props.disabled}
      aria-busy={props.busy}
      aria-label={props.label}
    >
      {props.children}
    </button>
  );
}

/** A form that never leaves the page. */
export function Form(props: { onSubmit: () => void; class?: string; label?: string } & Children) {
  return (
    <form
      class={props.class ?? "form"}
      aria-label={props.label}
      onSubmit={(event) => {
        event.preventDefault();
        props.onSubmit();
      }}
    >
      {props.children}
    </form>
  );
}

export function Badge(props: { tone?: "in" | "out" | "bad" | "plain" } & Children) {
  return <span class={`badge ${props.tone ?? "plain"}`}>{props.children}</span>;
}

/** What went wrong, and what can be done about it. */
export function ErrorNote({ error }: { error?: Error }) {
  if (!error) return null;
  const told = error instanceof ApiError ? error : undefined;
  return (
    <div class="error" role="alert">
      <p>{error.message}</p>
      {told && (told.code || told.retryAfterS > 0) && (
        <p class="faint">
          {told.code && <code>{told.code}</code>}
          {told.retryAfterS > 0 && ` Try again in ${told.retryAfterS} s.`}
        </p>
      )}
      {told?.wantsKey && <Button onPress={openKeys}>Enter an API key</Button>}
    </div>
  );
}

export function Empty({ children }: Children) {
  return <p class="empty">{children}</p>;
}

/** A card with a heading of its own. */
export function Panel(props: { title: string; note?: string; aside?: ComponentChildren } & Children) {
  return (
    <section class="panel" aria-label={props.title}>
      <header class="panel-head">
        <h2>{props.title}</h2>
        {props.aside}
      </header>
      {props.note && <p class="faint">{props.note}</p>}
      {props.children}
    </section>
  );
}

/** A digest, cut short; the whole of it is its title. */
export function Hash({ value }: { value: string }) {
  return <code class="hash" title={value}>{value ? short(value) : "none"}</code>;
}

export function Version({ value }: { value: number }) {
  return <span class="version">v{count(value)}</span>;
}

/** Names and values, side by side. */
export function Pairs({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <dl class="pairs">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

interface DialogProps extends Children {
  title: string;
  onClose: () => void;
}

/** A modal dialog: the browser keeps the focus inside and gives it back at the end. */
export function Dialog(props: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const close = useRef(props.onClose);
  close.current = props.onClose;
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const dialog = element.current!;
    const closed = () => close.current();
    dialog.addEventListener("close", closed);
    dialog.showModal();
    return () => {
      dialog.removeEventListener("close", closed);
      (before?.isConnected ? before : document.getElementById("main"))?.focus();
    };
  }, []);
  return (
    <dialog ref={element} aria-label={props.title}>
      <header class="panel-head">
        <h2>{props.title}</h2>
        <Button kind="quiet" label="Close" onPress={props.onClose}>✕</Button>
      </header>
      {props.children}
    </dialog>
  );
}

interface MeterProps {
  label: string;
  value: number;
  max: number;
  mark?: number;
  tone?: string;
}

/** A bar from 0 to max, with a mark where something changes. */
export function Meter({ label, value, max, mark, tone = "in" }: MeterProps) {
  const share = (of: number) => `${100 * Math.min(1, Math.max(0, of / max))}%`;
  return (
    <div
      class={`meter ${tone}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={max}
      aria-valuenow={Math.min(max, Math.max(0, value))}
    >
      <div class="meter-fill" style={{ width: share(value) }} />
      {mark !== undefined && <div class="meter-mark" style={{ left: share(mark) }} />}
    </div>
  );
}

interface PagerProps {
  label: string;
  hasBefore: boolean;
  hasNext: boolean;
  onBefore: () => void;
  onNext: () => void;
}

export function Pager(props: PagerProps & Children) {
  return (
    <nav class="pager" aria-label={props.label}>
      <Button disabled={!props.hasBefore} onPress={props.onBefore}>Previous</Button>
      <span class="faint">{props.children}</span>
      <Button disabled={!props.hasNext} onPress={props.onNext}>Next</Button>
    </nav>
  );
}
