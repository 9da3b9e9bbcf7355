/** What views share: loading, doing, repeating, waiting. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

export interface Loaded<T> {
  data?: T;
  error?: Error;
  busy: boolean;
  reload: () => void;
}

/** Loads when the view opens and whenever a dependency changes; the last answer stays meanwhile. */
export function useLoad<T>(
  load: (signal: AbortSignal) => Promise<T>,
  dependencies: unknown[],
): Loaded<T> {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState<{ data?: T; error?: Error; busy: boolean }>({ busy: true });
  useEffect(() => {
    const stop = new AbortController();
    const settle = (next: (old: { data?: T }) => { data?: T; error?: Error; busy: boolean }) => {
      if (!stop.signal.aborted) setState(next);
    };
    setState((old) => ({ ...old, busy: true }));
    load(stop.signal).then(
      (data) => settle(() => ({ data, busy: false })),
      (error: Error) => settle((old) => ({ data: old.data, error, busy: false })),
    );
    return () => stop.abort();
  }, [...dependencies, turn]);
  const reload = useCallback(() => setTurn((last) => last + 1), []);
  return { ...state, reload };
}

export interface Action {
  run: () => void;
  busy: boolean;
  error?: Error;
  clear: () => void;
}

/** Something that a button does: once at a time, with its error. */
export function useAction(act: () => Promise<unknown>): Action {
  const [state, setState] = useState<{ busy: boolean; error?: Error }>({ busy: false });
  const busy = useRef(false);
  const run = () => {
    if (busy.current) return;
    busy.current = true;
    setState({ busy: true });
    act()
      .then(
        () => setState({ busy: false }),
        (error: Error) => setState({ busy: false, error }),
      )
      .finally(() => (busy.current = false));
  };
  return { ...state, run, clear: () => setState({ busy: false }) };
}

/** Repeats while the page is looked at. */
export function useEvery(periodMs: number, act: () => void): void {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || latest.current(), periodMs);
    return () => clearInterval(timer);
  }, [periodMs]);
}

/** A value once it has rested for a while. */
export function useRested<T>(value: T, restMs: number): T {
  const [rested, setRested] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setRested(value), restMs);
    return () => clearTimeout(timer);
  }, [value, restMs]);
  return rested;
}
