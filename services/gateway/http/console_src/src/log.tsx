/** The log of a bank as it grows, newest first. */
import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import type { Looked } from "./bank";
import { ago, moment } from "./format";
import { useAction } from "./hooks";
import { bankLink, goTo } from "./route";
import type { LogEvent } from "./types";
import { Badge, Button, Empty, ErrorNote, Version } from "./ui";

const KEPT = 2000;
const PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 15_000;

type Following = "following" | "connecting" | "paused";

export function Log({ info, setAt }: Looked) {
  const bank = info.config.bank;
  const [first] = useState(Math.max(0, info.version - api.EVENTS_PAGE));
  const [paused, setPaused] = useState(false);
  const { seen, add, following, error } = useWatch(bank, first, paused);
  const oldest = seen.length ? seen[seen.length - 1].version : 0;
  const older = useAction(async () => {
    const after = Math.max(0, oldest - 1 - api.EVENTS_PAGE);
    add(await api.events(bank, { after: after, page_size: oldest - 1 - after }));
  });
  const look = (version: number) => {
    setAt(version >= info.version ? undefined : version);
    goTo(bankLink(bank, "ask"));
  };
  return (
    <>
      <div class="toolbar">
        <p class={`live ${following}`} role="status">
          {{ following: "Live", connecting: "Connecting", paused: "Paused" }[following]}
        </p>
        <Button onPress={() => setPaused(!paused)}>{paused ? "Follow" : "Pause"}</Button>
      </div>
      <ErrorNote error={error} />
      {!seen.length && <Empty>{info.version ? "…" : "Nothing has happened in this bank."}</Empty>}
      <ol class="rows log" reversed aria-label="Events, newest first">
        {seen.map((event) => <EventRow key={event.version} event={event} onLook={look} />)}
      </ol>
      <ErrorNote error={older.error} />
      {oldest > 1 && seen.length < KEPT && <Button busy={older.busy} onPress={older.run}>Earlier events</Button>}
    </>
  );
}

const TONES: Record<string, "in" | "out" | "bad"> = { write: "in", forget: "out", erase: "bad" };

function EventRow({ event, onLook }: { event: LogEvent; onLook: (version: number) => void }) {
  const kind = event.kind.toLowerCase();
  return (
    <li class="row">
      <p class="row-main row-meta">
        <Version value={event.version} />
        <Badge tone={TONES[kind]}>{kind}</Badge>
        <span class="cut">
          <code>{event.fact_id}</code>
          {event.erased && " erased since"}
        </span>
        <time title={moment(event.time_ms)}>{ago(event.time_ms)}</time>
      </p>
      <Button
        kind="quiet"
        label={`Ask as of version ${event.version}`}
        onPress={() => onLook(event.version)}
      >
        Ask as of then
      </Button>
    </li>
  );
}

/** Follows the log past a version; after a cut it goes on from the last event seen. */
function useWatch(bank: string, first: number, paused: boolean) {
  const [seen, setSeen] = useState<LogEvent[]>([]);
  const [following, setFollowing] = useState<Following>("connecting");
  const [error, setError] = useState<Error>();
  const add = (events: LogEvent[]) =>
    setSeen((old) => {
      const known = new Map([...old, ...events].map((event) => [event.version, event]));
      return [...known.values()].sort((a, b) => b.version - a.version);
    });
  const newest = seen.length ? seen[0].version : first;
  useEffect(() => {
    if (paused) {
      setFollowing("paused");
      return;
    }
    const stop = new AbortController();
    const told = (state: Following, problem?: Error) => {
      setFollowing(state);
      setError(problem);
    };
    void watched(bank, newest, stop.signal, (event) => add([event]), told);
    return () => stop.abort();
  }, [bank, paused]);
  return { seen: seen.slice(0, KEPT), add, following, error };
}

async function watched(
  bank: string,
  after: number,
  stop: AbortSignal,
  add: (event: LogEvent) => void,
  tell: (state: Following, problem?: Error) => void,
): Promise<void> {
  let pause = PAUSE_MS;
  while (!stop.aborted) {
    try {
      for await (const event of api.watch(bank, after, stop, () => tell("following"))) {
        add(event);
        after = event.version;
        pause = PAUSE_MS;
      }
      tell("connecting");
    } catch (error) {
      if (stop.aborted) return;
      tell("connecting", error as Error);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}
