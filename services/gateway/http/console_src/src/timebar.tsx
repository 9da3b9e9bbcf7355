/** The slider over a bank's versions: everything below it is read as of then. */
import * as api from "./api";
import { ago, count, moment } from "./format";
import { useLoad, useRested } from "./hooks";
import { Button, ErrorNote } from "./ui";

const REST_MS = 300;
const DID: Record<string, string> = { WRITE: "wrote", FORGET: "forgot", ERASE: "erased" };

interface TimeBarProps {
  bank: string;
  newest: number;
  at: number | undefined;
  setAt: (version: number | undefined) => void;
}

export function TimeBar({ bank, newest, at, setAt }: TimeBarProps) {
  if (newest < 2) return null;
  const shown = at ?? newest;
  const choose = (version: number) => setAt(version >= newest ? undefined : version);
  return (
    <div class={`timebar ${at ? "past" : ""}`}>
      <label class="timebar-label" for="as-of">As of version</label>
      <input
        id="as-of"
        type="range"
        min={1}
        max={newest}
        value={shown}
        aria-valuetext={at ? `version ${at} of ${newest}` : `version ${newest}, the newest`}
        onInput={(event) => choose(Number(event.currentTarget.value))}
      />
      <output class="number" for="as-of">
        {count(shown)} <span class="faint">of {count(newest)}</span>
      </output>
      <Button kind="quiet" disabled={!at} onPress={() => setAt(undefined)}>Newest</Button>
      {at && <Then bank={bank} version={at} />}
    </div>
  );
}

/** What happened at a version. */
function Then({ bank, version }: { bank: string; version: number }) {
  const rested = useRested(version, REST_MS);
  const { data, error } = useLoad(
    (signal) => api.events(bank, { after: rested - 1, page_size: 1 }, signal),
    [bank, rested],
  );
  const event = data?.[0];
  return (
    <p class="then">
      {event && event.version === version ? (
        <>
          Then: {DID[event.kind]} <code>{event.fact_id}</code>
          {event.erased && ", erased since"},{" "}
          <time title={moment(event.time_ms)}>{ago(event.time_ms)}</time>. Edits go to the newest
          version.
        </>
      ) : (
        "…"
      )}
      <ErrorNote error={error} />
    </p>
  );
}
